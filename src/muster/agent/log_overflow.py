"""Logs that cannot be written (full disk, quota, file size limit): their ranks write into pipes instead.

Usually descriptors 1 and 2 of a rank are its log files, and nothing passes through this process. There is also a pipe
for each log, which this process reads. A Python rank switches to it when a write fails (`hook/rank.py`); if the
disk has little space from the start, all ranks write into pipes, in any language; and if a rank has a pseudo-terminal
(`pseudo_terminal.py`), that is read instead of the pipe of its stdout. What arrives is written to the log as far as
possible. The rest is counted and lost: a rank never sees that the disk is full, and never waits for space.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from typing import NamedTuple

from muster.linux import processes

ROOM = 1 << 30
"""Free bytes below which a file system may become full before the run ends."""

_PIECE = 1 << 18
"""Maximum number of bytes to read from a pipe at once."""
_AGAIN = 0.5
"""Seconds between attempts to write to a log that failed."""
_RECENT = 1 << 16
"""Number of lost bytes to remember: they may show why a rank failed."""


def may_fill_up(folder: str) -> bool:
    """Return True if writing files there may soon fail: little space, or a file size limit."""
    if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
        return True
    try:
        found = os.statvfs(folder)
    except OSError:
        return True
    # some file systems do not report their size
    return bool(found.f_blocks) and found.f_bavail * found.f_frsize < ROOM


class Loss(NamedTuple):
    """The data missing in a log so far."""

    missing: int = 0
    """Number of bytes."""
    why: str = ""
    """The error, in words."""
    going_on: bool = False
    """True if the log still cannot be written."""


class Moved(NamedTuple):
    """The result of moving a piece of data from a pipe to its log."""

    size: int
    """Number of bytes."""
    lost: bytes
    """The end of it, if that could not be written."""


def _pipe() -> int:
    """Return the read end of a new pipe. Raises OSError."""
    ends = os.pipe()
    try:
        # open for writing too: no end of file between two writers
        return os.open(f"/proc/self/fd/{ends[0]}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        for fd in ends:
            os.close(fd)


class Overflow:
    """The pipe of one log, and the log it is written to."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic, source: int | None = None) -> None:
        """`what` describes the data, for users; `source` is a nonblocking descriptor to read in place of a pipe.

        Raises OSError.
        """
        self.what, self._clock = what, clock
        self.fd = _pipe() if source is None else source
        self.pipe = f"/proc/{os.getpid()}/fd/{self.fd}"
        """Path that opens the pipe for writing. Unlike a FIFO it needs no disk space."""
        self.log = ""
        self._file = -1
        self._marked = 0
        """Number of lost bytes that the log mentions."""
        self._tried = 0.0
        self.loss = self.told = Loss()
        """`told` is the loss that was last reported."""
        self.recent = b""
        """The last lost bytes, while the log cannot be written."""

    def lead_to(self, log: str) -> None:
        """Write to this file, the log of another attempt, from now on."""
        self.settle()
        self._close()
        self.log, self._marked, self._tried = log, 0, 0.0
        self.loss = self.told = Loss()
        self.recent = b""

    def begin(self) -> None:
        """Create the log if possible: a rank that writes nothing has one too."""
        try:
            if self._file < 0:
                self._file = self._open()
        except OSError:
            pass  # tried again when there is something to write

    def take(self) -> Moved | None:
        """Move a piece of data to the log; None if there was none."""
        try:
            data = os.read(self.fd, _PIECE)
        except BlockingIOError:
            return None
        written, error = self._write(data)
        lost = data[written:]
        if error is not None:
            self.loss = Loss(self.loss.missing + len(lost), processes.reason(error), True)
            self.recent = (self.recent + lost)[-_RECENT:]
        return Moved(len(data), lost)

    def settle(self) -> None:
        """Record a loss in the log, if there is space again; no more data arrives for now."""
        if self.loss.going_on:
            self._tried = 0.0
            self._write(b"")

    def close(self) -> None:
        """Close the pipe; processes that still write to it get SIGPIPE."""
        self._close()
        os.close(self.fd)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self, data: bytes) -> tuple[int, OSError | None]:
        """Append to the log; return how much was written, and the error that stopped it."""
        if self.loss.going_on and self._clock() - self._tried < _AGAIN:
            return 0, OSError(0, self.loss.why)
        self._tried = self._clock()
        try:
            if self._file < 0:
                self._file = self._open()
            if self.loss.going_on:
                self._mark()
        except OSError as error:
            return 0, error
        self.loss, self.recent = self.loss._replace(going_on=False), b""
        return _write_all(self._file, data)

    def _open(self) -> int:
        os.makedirs(os.path.dirname(self.log), mode=0o700, exist_ok=True)  # the attempt may have begun on a full disk
        return os.open(self.log, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _mark(self) -> None:
        """Write a line about missing bytes to the log, completely or not at all. Raises OSError."""
        count = self.loss.missing - self._marked
        line = f"muster: {count} bytes of {self.what} are missing from this log: {self.loss.why}\n".encode()
        size = os.fstat(self._file).st_size
        # the rank itself may have written part of a line before the disk was full
        middle = size and os.pread(self._file, 1, size - 1) != b"\n"
        written, error = _write_all(self._file, b"\n" + line if middle else line)
        if error is not None:
            if written and os.fstat(self._file).st_size == size + written:
                os.ftruncate(self._file, size)
            raise error
        self._marked = self.loss.missing


def _write_all(fd: int, data: bytes) -> tuple[int, OSError | None]:
    """Write as much as possible (a disk that fills up takes a part); return how much, and the error that stopped it."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except OSError as error:
            return len(data) - len(left), error
    return len(data), None
