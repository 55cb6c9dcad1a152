"""What podman and docker have in common: a container that stays, and a process in it.

The agent is not the container's first process: when a run is detached, the agent forks, its first process exits, and
the container must not end with it. So the container is started first, with a small program that waits until nothing
else runs in it, and the agent is started in it by `exec`, whose connection ends with the process that it started.
"""

from __future__ import annotations

from muster.linux.shell import join, quote
from muster.runtimes import Inside, mount_lines

FIRST = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
since, within = time.monotonic(), 60
while time.monotonic() - since < within:
    time.sleep(0.5)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    if any(name.isdigit() and name != "1" for name in os.listdir("/proc")):
        since, within = time.monotonic(), 0.4
"""
"""The first process of a container: it reaps processes, and exits once no other runs; for the first it waits 60 s."""

_VARIABLES = "^(SLURM|PMI|(CUDA|HIP|ROCR)_VISIBLE_DEVICES=)"
"""Pattern of the variables of the host that the agent has, too: who it is in a job, and which GPUs it may use."""

_DEVICES = """\
[ ! -e /dev/nvidiactl ] || set -- "$@" {nvidia}
[ ! -e /dev/kfd ] || set -- "$@" --device /dev/kfd --device /dev/dri
[ ! -e /dev/infiniband ] || set -- "$@" --device /dev/infiniband"""


def lines(program: str, inside: Inside, user: str, nvidia: str, *options: str) -> str:
    """Return the shell lines that enter a container of this program.

    `user` are shell lines that add options for the user, the group and shared memory; `nvidia` are the options that
    give it all GPUs.
    """
    run = join(("--rm", "--network", "host", *options, "--entrypoint", "python3"))
    first = join((inside.value, "-I", "-S", "-c", FIRST))
    return "\n".join(
        (
            "set --",
            _DEVICES.format(nvidia=nvidia),
            user,
            mount_lines(inside, "--volume"),
            f'container=$({program} run --detach "$@" {run} {first} </dev/null) || exit 95',
            f"set -- $(env | grep -E {quote(_VARIABLES)} | sed 's/=.*//; s/^/--env /')",
            f'set -- {program} exec --interactive "$@" "$container"',
        )
    )
