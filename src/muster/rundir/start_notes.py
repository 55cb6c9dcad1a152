"""What the controller in a job does before it can be connected to, such as sending an environment: lines in a file of
the run directory, which commands that wait for the run show."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from muster.core.printable import line as safe
from muster.rundir.run import Run

_FILE = "starting.log"
_MOST = 1 << 16
"""Bytes that are read at once."""


def clear_notes(run: Run) -> None:
    """Remove the notes of an earlier attempt."""
    (run.path / _FILE).unlink(missing_ok=True)


def note(run: Run, text: str) -> None:
    """Append a line. An error is ignored: the run does not depend on it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    with suppress(OSError), open(os.open(run.path / _FILE, flags, 0o600), "ab", buffering=0) as file:
        file.write(f"{safe(text)}\n".encode())


class StartNotes:
    """Shows the lines as they are written."""

    def __init__(self, run: Run, tell: Callable[[str], object]) -> None:
        self.run, self.tell = run, tell
        self.told: set[str] = set()
        """The lines that were shown: the controller also records them as messages of the run."""
        self._shown = b""
        """What was shown of the file."""

    def look(self) -> None:
        """Show new lines. Another attempt writes another file."""
        flags, data = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, b""
        with suppress(OSError), open(os.open(self.run.path / _FILE, flags), "rb") as file:
            data = file.read(_MOST)
        data = data[: data.rfind(b"\n") + 1]
        new = data[len(self._shown) :] if data.startswith(self._shown) else data
        self._shown = data
        for line in new.decode(errors="replace").splitlines():
            text = safe(line)
            self.told.add(text)
            self.tell(text)
