"""A file of lines that loses none while the disk is full."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class Journal:
    """A file to which lines are appended. Lines that cannot be written are retried with the next one."""

    def __init__(self, path: Path):
        self.path = path
        self._fd = -1
        self._waiting = b""

    @property
    def waits(self) -> bool:
        """Whether some text could not be written yet."""
        return bool(self._waiting)

    def append(self, text: str) -> None:
        """Append text. Raises OSError; the text is kept and retried."""
        self._waiting += text.encode()
        self.flush()

    def flush(self) -> None:
        """Write the pending text. Raises OSError."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        while self._waiting:
            self._waiting = self._waiting[os.write(self._fd, self._waiting) :]

    def close(self) -> int:
        """Write the pending text and close the file; return the number of lost lines."""
        with suppress(OSError):
            self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        return self._waiting.count(b"\n")
