"""podman, with or without root. Tried with 4.3."""

from __future__ import annotations

from muster.runtimes import Inside, Runtime
from muster.runtimes._engine import lines

_USER = """\
[ "$(id -u)" = 0 ] || set -- "$@" --userns=keep-id
if [ "$(id -u)" = 0 ] || [ -e /dev/mqueue ]; then set -- "$@" --ipc host
else set -- "$@" --volume /dev/shm:/dev/shm; fi"""
"""Without root `--ipc host` mounts /dev/mqueue, which not every machine has; ranks need the shared memory only."""


def enter(inside: Inside) -> str:
    """Return the shell lines that enter the container, with the user's own uid inside, whatever SELinux labels say."""
    # GPUs by the Container Device Interface (nvidia-ctk cdi generate)
    return lines("podman", inside, _USER, "--device nvidia.com/gpu=all", "--security-opt", "label=disable")


RUNTIME = Runtime("a container of podman", enter, has_image=True)
