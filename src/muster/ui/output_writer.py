"""Writing the output that a user sees, in a thread of its own."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable

from muster.linux import processes
from muster.linux.descriptors import lead_nowhere
from muster.linux.writer import Writer

_FORSAKEN: set[int] = set()

_LOST = """muster: warning: cannot write to stdout: {reason}; the run continues
hint: see the output of the ranks with `muster logs`
"""

_A_MOMENT = 0.2
"""Seconds within which a line being written may be completed, once no more output is wanted."""


def reader_gone(fd: int) -> bool:
    """Return whether the reader of a descriptor is gone (`| head`)."""
    look = select.poll()
    look.register(fd, 0)
    return fd in _FORSAKEN or any(event & select.POLLERR for _, event in look.poll(0))


def write_all(fd: int, data: bytes | bytearray) -> None:
    """Write all data; a reader that is gone (`| head`) is no error. Raises OSError (a full disk)."""
    left = memoryview(data)  # a pipe accepts a thousandth of a long line at a time
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
    """Write all data, ignoring errors: the output is also in the logs, whatever happens to the terminal or file."""
    try:
        write_all(fd, data)
    except OSError:
        pass


class OutputWriter:
    """Writes the output that a user sees."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self._dropping = False
        self._told = False
        """True if it was reported that standard output cannot be written."""

    def put(self, fd: int, data: bytes) -> None:
        """Queue bytes for writing."""
        if data:
            self.writer.do(lambda: None if self._dropping else self._write(fd, data))

    def do(self, show: Callable[[], object]) -> None:
        """Queue a call that shows output elsewhere than on a descriptor."""
        self.writer.do(lambda: None if self._dropping else show())

    def _write(self, fd: int, data: bytes) -> None:
        """Write bytes; report once that a disk behind `> file` is full. A closed terminal is not reported."""
        try:
            write_all(fd, data)
        except OSError as error:
            if fd == 1 and error.errno != errno.EIO and not self._told:
                self._told = True
                write(2, _LOST.format(reason=processes.reason(error)).encode())

    def close(self, enough: Callable[[], bool]) -> None:
        """Run the loop until everything is written, or `enough` returns true."""
        self.writer.drain(enough)
        self._dropping = enough()
        self.writer.close(_A_MOMENT if self._dropping else None)
