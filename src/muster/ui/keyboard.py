"""The terminal from which a run was started, left in the state that the shell expects.

A rank that reads it is in a session of its own, so the kernel lets it read and configure the terminal like any file
(`tty_check_change` and `job_control` in the kernel's drivers/tty check only processes whose controlling terminal it
is).
"""

from __future__ import annotations

import os
import termios
from typing import Any


class Keyboard:
    """The terminal on stdin, or another descriptor, if there is one and muster is in its foreground."""

    def __init__(self, fd: int = 0) -> None:
        self._fd = fd
        self._settings: list[Any] | None = None
        if self._ours():
            self._settings = termios.tcgetattr(fd)

    def leave(self) -> None:
        """Restore the terminal settings, which a rank killed at a prompt could not, and discard pending input.

        The shell would take what was typed for the run as a command.
        """
        if self._settings is not None and self._ours():
            try:
                termios.tcsetattr(self._fd, termios.TCSAFLUSH, self._settings)
            except (OSError, termios.error):
                pass  # it was closed

    def _ours(self) -> bool:
        try:
            return os.isatty(self._fd) and os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            return False
