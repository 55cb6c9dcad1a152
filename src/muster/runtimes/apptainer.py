"""Apptainer, or Singularity: its predecessor, which has the same options. By its manual; not tried."""

from __future__ import annotations

from muster.linux.shell import quote
from muster.runtimes import Inside, Runtime, mount_lines


def enter(inside: Inside) -> str:
    """Return the shell lines that enter the container: no daemon and no PID namespace, so the agent is a child."""
    return "\n".join(
        (
            "set --",
            '[ ! -e /dev/nvidiactl ] || set -- "$@" --nv',
            '[ ! -e /dev/kfd ] || set -- "$@" --rocm',
            mount_lines(inside, "--bind"),
            "program=apptainer; command -v apptainer >/dev/null || program=singularity",
            f'set -- "$program" exec "$@" {quote(inside.value)}',
        )
    )


RUNTIME = Runtime("a container of Apptainer or Singularity", enter, has_image=True)
