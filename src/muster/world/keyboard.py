"""The terminal from which a run was started, as the shell finds it again.

A rank that reads it is in a session of its own, so the kernel lets it read and set it like any file (`tty_check_change`
and `job_control` in the kernel's drivers/tty look at processes whose controlling terminal it is).
"""

from __future__ import annotations

import os
import termios
from typing import Any


class Keyboard:
    """The terminal on stdin, if there is one and muster is in its foreground."""

    def __init__(self) -> None:
        self._settings: list[Any] | None = None
        if self._ours():
            self._settings = termios.tcgetattr(0)

    def leave(self) -> None:
        """Set it as it was, which a rank that was killed at a prompt could not, and forget what was typed for the run:
        the shell would take it for a command."""
        if self._settings is not None and self._ours():
            try:
                termios.tcsetattr(0, termios.TCSAFLUSH, self._settings)
            except (OSError, termios.error):
                pass  # it has been closed

    @staticmethod
    def _ours() -> bool:
        try:
            return os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
        except OSError:
            return False
