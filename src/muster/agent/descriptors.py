"""Standard descriptors that are closed, as under cron or after `>&-`. Imports little: it is the first that runs."""

from __future__ import annotations

import os
import sys


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
