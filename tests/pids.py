"""A process with a certain pid, for tests of what happens if another process gets the pid of one that has ended."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from muster.linux import processes, procfs


def with_pid(wanted: int) -> int | None:
    """Return `wanted` if a process could be started with it, in a group of its own; that takes a privilege.

    It starts in a later tick of the clock than any process before: start times tell the two apart, and count ticks.
    """
    first = _sleeper()
    now = procfs.started(first)
    _kill(first)
    for _ in range(300):
        try:
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(wanted - 1))
        except OSError:
            return None
        pid = _sleeper()
        if pid == wanted and procfs.started(pid) != now:
            return pid
        _kill(pid)
    return None


def _sleeper() -> int:
    return processes.spawn(["sleep", "1000"], os.environ, "/", 0, 1, 2)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
