"""A file of lines that loses none while the disk is full."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class Journal:
    """A file to which lines are appended. What cannot be written is written with the next one, when there is room."""

    def __init__(self, path: Path):
        self.path = path
        self._fd = -1
        self._waiting = b""

    @property
    def waits(self) -> bool:
        """There is text that could not be written yet."""
        return bool(self._waiting)

    def append(self, text: str) -> None:
        """Append text. Raises OSError; then the text waits."""
        self._waiting += text.encode()
        self.flush()

    def flush(self) -> None:
        """Write what waits. Raises OSError."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        while self._waiting:
            self._waiting = self._waiting[os.write(self._fd, self._waiting) :]

    def close(self) -> int:
        """Write what waits, and close the file; gives how many lines are lost."""
        with suppress(OSError):
            self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        return self._waiting.count(b"\n")
