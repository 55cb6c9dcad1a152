"""Python stacks of ranks: requested by a signal, and read from the file to which `faulthandler` writes them.

Any thread of a rank can write the stacks of all, but only those of a thread that stands still are safe to read: one
whose frames change meanwhile can crash the rank. So the main thread writes them itself, unless it waits in a call that
the signal would end early. The sleeps of torch, for example, throw an exception then (the back-off of a TCPStore whose
server does not listen yet). In that case the signal goes to the thread of torch's server in the rank.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from muster.agent.patience import Patience
from muster.agent.rank_server import THREAD
from muster.linux import kernel_waits, processes, procfs
from muster.protocol.paths import rank_file

WITHIN = 2.0
"""Seconds within which a rank must write its stacks."""

_PAUSE = 0.005
"""Seconds between checks of these files."""

_STILL = 10
"""Checks after which a text counts as complete that does not end as expected and no longer grows."""

_ENDED = 1
"""The same for a text that does."""

_RESTARTED = frozenset(("futex", "read", "wait4", "waitid", "accept", "accept4", "recvfrom", "flock"))
"""Calls that the kernel continues after a handler: faulthandler installs it with SA_RESTART (signal(7))."""

_OF_FILES = frozenset(
    (
        "open",
        "openat",
        "close",
        "stat",
        "newfstatat",
        "fstat",
        "lstat",
        "statx",
        "access",
        "readlink",
        "getdents64",
        "lseek",
        "pread64",
        "write",
        "mmap",
        "munmap",
        "mprotect",
        "madvise",
        "brk",
        "ioctl",
    )
)
"""Calls that code makes all the time, such as an import: they have usually ended when the signal arrives."""

_REALTIME = 0

_DESCRIPTOR = 200
"""The descriptor to which a rank writes its stacks (`hook/rank.py`)."""

_OUTERMOST = (" in <module>", " in _run_module_as_main", "<no Python frame>")
"""How the last line about a main thread ends, which faulthandler writes last."""


class StackRequest:
    """The request to one rank to write its stacks to a file."""

    def __init__(self, pid: int, path: str) -> None:
        self.pid, self._path = pid, path
        self.text = ""
        """What it has written so far."""
        self._offset: int | None = None
        self._asked = False
        self._unchanged = 0
        try:
            if processes.has_handler(pid, processes.STACKS_SIGNAL) and not _is_reused(pid, path):
                self._offset = os.stat(path).st_size
        except OSError:  # it was deleted
            pass

    @property
    def possible(self) -> bool:
        """Whether the rank can write its stacks: it is a Python that muster prepared, and has started."""
        return self._offset is not None

    def check(self) -> bool:
        """Send the signal as soon as that is harmless, and read what was written; return whether that is complete."""
        if self._offset is None or not procfs.lives(self.pid):
            return True
        if not self._asked:
            thread = _receiver(self.pid)
            if thread is None:
                return False
            if not processes.has_handler(self.pid, processes.STACKS_SIGNAL):  # it exits, since it was looked at
                return True
            self._asked = True
            processes.send_signal_to_thread(self.pid, thread, processes.STACKS_SIGNAL)
        before, self.text = self.text, _text_from(self._path, self._offset)
        self._unchanged = self._unchanged + 1 if self.text and self.text == before else 0
        # a dump that is being written may end like that after the frames of any thread but the last one
        ends = self.text.endswith("\n") and self.text.rstrip().endswith(_OUTERMOST)
        return (ends and self._unchanged >= _ENDED) or self._unchanged >= _STILL


def _is_reused(pid: int, path: str) -> bool:
    """Return whether a script that closed all files has another one where the rank would write its stacks."""
    try:
        link = os.readlink(f"/proc/{pid}/fd/{_DESCRIPTOR}")
    except OSError:  # it was closed: nothing is written. Or the limit was lower, and it has another number
        return False
    return os.path.basename(path) not in link


def _receiver(pid: int) -> int | None:
    """Return the thread of a rank that is to get the signal; None if there is none that it does not disturb now."""
    threads, now = kernel_waits.threads_of(pid), kernel_waits.call_of(pid, pid)
    if not now.call or now.call in _RESTARTED or now.call in _OF_FILES:
        return pid
    for thread in reversed(threads[1:]):  # the first one accepts connections
        found = procfs.stat(pid, thread)
        if found is not None and found.name == THREAD:
            return thread
    # Python's own sleep has an absolute time of another clock, and is continued by Python
    fragile = now.call == "nanosleep" or (now.call == "clock_nanosleep" and now.args[:2] == (_REALTIME, 0))
    if not fragile:
        return pid
    for thread in threads[1:]:
        if kernel_waits.call_of(pid, thread).call in _RESTARTED and not processes.blocks(
            pid, processes.STACKS_SIGNAL, thread
        ):
            return thread
    return None


def collect(
    pids: Mapping[int, int],
    folder: str,
    after: Callable[[float, Callable[[], object]], object],
    tell: Callable[[dict[int, str], dict[int, int]], object],
) -> None:
    """Request stacks from ranks, `pids` by rank, and call `tell` once they are complete, or after `WITHIN` seconds.

    `tell` gets the texts by rank, and the pids of ranks that cannot answer. `folder` is the attempt's directory;
    `after` is a loop's.
    """
    asked = {rank: StackRequest(pid, rank_file(folder, rank, "stack")) for rank, pid in sorted(pids.items())}
    mute = {rank: request.pid for rank, request in asked.items() if not request.possible}
    waiting = {rank: request for rank, request in asked.items() if request.possible}
    told = dict(waiting)
    patience = Patience(WITHIN)

    def look() -> None:
        for rank in [rank for rank, request in waiting.items() if request.check()]:
            del waiting[rank]
        if waiting and not patience.over():
            after(_PAUSE, look)
        else:
            tell({rank: request.text for rank, request in told.items()}, mute)

    look()


def _text_from(path: str, offset: int) -> str:
    try:
        with open(path, errors="replace") as file:
            file.seek(offset)
            return file.read()
    except OSError:  # it was deleted
        return ""
