"""Write what a person sees, in a thread of its own."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable

from muster.linux import processes
from muster.linux.descriptors import lead_nowhere
from muster.linux.writer import Writer

_FORSAKEN: set[int] = set()

_LOST = """muster: cannot write to standard output: {reason}; the run goes on
hint: all that the ranks write is kept: see `muster logs`
"""

_A_MOMENT = 0.2
"""Seconds in which a line that is being written may come to its end, once no more is wanted."""


def reader_gone(fd: int) -> bool:
    """Whoever read what is written there has gone (`| head`)."""
    look = select.poll()
    look.register(fd, 0)
    return fd in _FORSAKEN or any(event & select.POLLERR for _, event in look.poll(0))


def write_all(fd: int, data: bytes | bytearray) -> None:
    """Write all of it; whoever reads may have gone (`| head`), which ends nothing. Raises OSError (a full disk)."""
    left = memoryview(data)  # of a long line a pipe takes a thousandth at a time
    try:
        while left:
            left = left[os.write(fd, left) :]
    except BrokenPipeError:
        lead_nowhere(fd)
        _FORSAKEN.add(fd)
    except BlockingIOError:
        os.set_blocking(fd, True)
        write_all(fd, bytes(left))


def write(fd: int, data: bytes) -> None:
    """The same, where the logs are kept elsewhere: a terminal that was closed, or a full disk behind `> file`, takes
    nothing away."""
    try:
        write_all(fd, data)
    except OSError:
        pass


class OutputWriter:
    """Writes what a person sees."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self._dropping = False
        self._told = False
        """It was said that standard output takes no more."""

    def put(self, fd: int, data: bytes) -> None:
        """Have these bytes written."""
        if data:
            self.writer.do(lambda: None if self._dropping else self._write(fd, data))

    def _write(self, fd: int, data: bytes) -> None:
        """Write, and say once that a disk behind `> file` is full; a terminal that was closed is no news."""
        try:
            write_all(fd, data)
        except OSError as error:
            if fd == 1 and error.errno != errno.EIO and not self._told:
                self._told = True
                write(2, _LOST.format(reason=processes.reason(error)).encode())

    def close(self, enough: Callable[[], bool]) -> None:
        """Run the loop until everything is written, or the person has seen `enough`."""
        self.writer.drain(enough)
        self._dropping = enough()
        self.writer.close(_A_MOMENT if self._dropping else None)
