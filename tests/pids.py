"""A process with a certain pid, for tests of what happens if another process gets the pid of one that has ended."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from muster.linux import processes


def with_pid(wanted: int) -> int | None:
    """Return `wanted` if a process could be started with it, in a group of its own; that takes a privilege."""
    for _ in range(200):
        try:
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(wanted - 1))
        except OSError:
            return None
        pid = processes.spawn(["sleep", "1000"], os.environ, "/", 0, 1, 2)
        if pid == wanted:
            return pid
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return None
