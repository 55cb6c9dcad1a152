"""Logs that cannot be written: a full disk, a quota, a limit of file sizes. Their ranks write into pipes instead.

As a rule descriptors 1 and 2 of a rank are its log files, and nothing goes through this process. There is a pipe for
each log all the same, which this process reads. A Python rank changes over to it when a write fails
(`sitecustomize.py`); where the disk has little room from the start, all ranks write into pipes, whatever language they
are written in; and a rank may have a pseudo-terminal (`pseudo_terminal.py`), which is read as the pipe of its stdout
is. What comes is written into the log as far as the disk takes it. What it does not take is counted and lost: a rank
never sees that the disk is full, and never waits for room on it.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from typing import NamedTuple

from muster.linux import processes

ROOM = 1 << 30
"""Free bytes below which a file system may be full before its run ends."""

_PIECE = 1 << 18
"""Bytes that are taken from a pipe at a time."""
_AGAIN = 0.5
"""Seconds after which a log is tried again that could not be written."""
_RECENT = 1 << 16
"""Bytes of what was lost that are remembered: they may say why a rank failed."""


def may_fill_up(folder: str) -> bool:
    """Whether files there may soon not be written any more: there is little room, or a limit of file sizes."""
    if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
        return True
    try:
        found = os.statvfs(folder)
    except OSError:
        return True
    # some file systems tell nothing at all of their size
    return bool(found.f_blocks) and found.f_bavail * found.f_frsize < ROOM


class Loss(NamedTuple):
    """What a log lacks so far."""

    missing: int = 0
    """Bytes."""
    why: str = ""
    """The error, in words."""
    going_on: bool = False
    """The log can still not be written."""


class Moved(NamedTuple):
    """A piece of what came through a pipe."""

    size: int
    """Bytes."""
    lost: bytes
    """The end of it, which could not be written."""


def _pipe() -> int:
    """The end of a new pipe from which one reads. Raises OSError."""
    ends = os.pipe()
    try:
        # open for writing too: there is no end of file between two writers
        return os.open(f"/proc/self/fd/{ends[0]}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        for fd in ends:
            os.close(fd)


class Overflow:
    """The pipe of one log, and the log into which it leads."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic, source: int | None = None) -> None:
        """`what` names what comes through the pipe, for people. `source` is what is read in its place, without
        waiting: a pseudo-terminal. Raises OSError."""
        self.what, self._clock = what, clock
        self.fd = _pipe() if source is None else source
        self.pipe = f"/proc/{os.getpid()}/fd/{self.fd}"
        """Who opens this path writes into the pipe. It needs no room on any disk, as a FIFO would."""
        self.log = ""
        self._file = -1
        self._marked = 0
        """Of what was lost, as much as the log says."""
        self._tried = 0.0
        self.loss = self.told = Loss()
        """`told` is what was told of it."""
        self.recent = b""
        """The end of what was lost, as long as the log cannot be written."""

    def lead_to(self, log: str) -> None:
        """From now on what comes belongs into this file, the log of another attempt."""
        self.settle()
        self._close()
        self.log, self._marked, self._tried = log, 0, 0.0
        self.loss = self.told = Loss()
        self.recent = b""

    def begin(self) -> None:
        """Make the log, if that can be: a rank that writes nothing has one too."""
        try:
            if self._file < 0:
                self._file = self._open()
        except OSError:
            pass  # it is tried again when there is something to write

    def take(self) -> Moved | None:
        """Move a piece of what came into the log; None where nothing had come."""
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
        """No more comes for the time being: if something was lost, and there is room again, have the log say so."""
        if self.loss.going_on:
            self._tried = 0.0
            self._write(b"")

    def close(self) -> None:
        """The pipe is needed no more; whoever still writes into it gets SIGPIPE."""
        self._close()
        os.close(self.fd)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self, data: bytes) -> tuple[int, OSError | None]:
        """Write at the end of the log; gives how much, and what stopped it."""
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
        os.makedirs(os.path.dirname(self.log), mode=0o700, exist_ok=True)  # of an attempt that began on a full disk
        return os.open(self.log, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _mark(self) -> None:
        """Leave word in the log of what is missing there; all of it or nothing. Raises OSError."""
        count = self.loss.missing - self._marked
        line = f"muster: {count} bytes of {self.what} are missing in this log: {self.loss.why}\n".encode()
        size = os.fstat(self._file).st_size
        # the rank itself may have written the beginning of a line, as far as there was room for it
        middle = size and os.pread(self._file, 1, size - 1) != b"\n"
        written, error = _write_all(self._file, b"\n" + line if middle else line)
        if error is not None:
            if written and os.fstat(self._file).st_size == size + written:
                os.ftruncate(self._file, size)
            raise error
        self._marked = self.loss.missing


def _write_all(fd: int, data: bytes) -> tuple[int, OSError | None]:
    """Write as much as can be: a disk that fills up takes a part. Gives how much, and what stopped it."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except OSError as error:
            return len(data) - len(left), error
    return len(data), None
