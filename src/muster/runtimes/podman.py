"""podman, with or without root. Tried with 4.3."""

from __future__ import annotations

from muster.runtimes import Inside, Runtime
from muster.runtimes._engine import lines


def enter(inside: Inside) -> str:
    """Return the shell lines that enter the container, with the user's own uid inside, whatever SELinux labels say."""
    user = '[ "$(id -u)" = 0 ] || set -- "$@" --userns=keep-id'
    # GPUs by the Container Device Interface (nvidia-ctk cdi generate)
    return lines("podman", inside, user, "--device nvidia.com/gpu=all", "--security-opt", "label=disable")


RUNTIME = Runtime("a container of podman", enter, has_image=True)
