"""Docker. By its manual; not tried."""

from __future__ import annotations

from muster.runtimes import Inside, Runtime
from muster.runtimes._engine import lines


def enter(inside: Inside) -> str:
    """Return the shell lines that enter the container, as the user and not as root, who would own all files."""
    return lines("docker", inside, 'set -- "$@" --ipc host --user "$(id -u):$(id -g)"', "--gpus all")


RUNTIME = Runtime("a container of Docker", enter, has_image=True)
