"""Standard descriptors that are closed (cron, `>&-`), or that take nothing any more. It is the first that runs."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any


def open_standard_descriptors() -> None:
    """Open /dev/null in place of each of stdin, stdout and stderr that is closed.

    First thing in a process: else the next file or pipe that it opens gets that number, and whoever prints writes into
    it.
    """
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, so this one
            os.set_inheritable(fd, True)
        if getattr(sys, name) is None:  # Python found it closed
            setattr(sys, name, open(fd, mode, errors="backslashreplace", closefd=False))


def lead_nowhere(fd: int) -> None:
    """Have what is written there go to /dev/null from now on."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, fd)
    os.close(null)


class _Lasting:
    """A stream that goes on when nobody takes what is written: the reader has gone (`| head`), or the disk is full.

    What a command found out, and its exit status, are the same whoever reads. Without this the error comes where
    Python happens to flush: in a `print`, or after the last line of the program.
    """

    def __init__(self, fd: int, stream: Any):
        self._fd, self._stream = fd, stream

    def write(self, text: str) -> int:
        """Write the text."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._lose(error)
        return len(text)

    def writelines(self, texts: Any) -> None:
        """Write several texts."""
        for text in texts:
            self.write(text)

    def flush(self) -> None:
        """Write what is still held back."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        lead_nowhere(self._fd)
        self._stream.flush()  # what was held back goes there too, and not into an error at the exit
        if self._fd == 1 and error.errno not in (errno.EPIPE, errno.EIO):  # EIO: the terminal has gone
            print(f"muster: cannot write to standard output: {error.strerror}", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def outlive_readers() -> None:
    """From now on printing never fails because of who takes what is printed."""
    sys.stdout, sys.stderr = _Lasting(1, sys.stdout), _Lasting(2, sys.stderr)
