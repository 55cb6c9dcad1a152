"""Standard descriptors that are closed (cron, `>&-`), or whose reader is gone. Runs before anything else."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any


def open_standard_descriptors() -> None:
    """Open /dev/null in place of each of stdin, stdout and stderr that is closed.

    Call it first in a process: otherwise the next file or pipe that is opened gets that descriptor, and anything
    printed is written into it.
    """
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor, so this one
            os.set_inheritable(fd, True)
        if getattr(sys, name) is None:  # Python found it closed
            setattr(sys, name, open(fd, mode, errors="backslashreplace", closefd=False))


def lead_nowhere(fd: int) -> None:
    """Redirect a descriptor to /dev/null."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, fd)
    os.close(null)


class _Lasting:
    """A stream whose writes never fail, even if the reader is gone (`| head`) or the disk is full.

    Without this, the error is raised wherever Python happens to flush: in a `print`, or after the last line of the
    program.
    """

    def __init__(self, fd: int, stream: Any):
        self._fd, self._stream = fd, stream
        self.is_lost = False
        """True if text could not be written, for another reason than that its reader is gone."""

    def write(self, text: str) -> int:
        """Write text; an OSError redirects the stream to /dev/null."""
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
        """Write the buffered text."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        lead_nowhere(self._fd)
        self._stream.flush()  # the buffered text goes to /dev/null too, instead of raising an error at exit
        if self._fd == 1 and error.errno not in (errno.EPIPE, errno.EIO):  # EIO: the terminal is gone
            self.is_lost = True
            print(f"error: cannot write to stdout: {error.strerror}", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def outlive_readers() -> None:
    """Replace sys.stdout and sys.stderr by streams whose writes never fail."""
    sys.stdout, sys.stderr = _Lasting(1, sys.stdout), _Lasting(2, sys.stderr)


def output_is_lost() -> bool:
    """Return whether something printed to stdout could not be written (`> /dev/full`); it is reported already."""
    return isinstance(sys.stdout, _Lasting) and sys.stdout.is_lost
