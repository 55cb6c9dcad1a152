"""The last numbers that a run has printed: those of the last line of its first rank that has any."""

from __future__ import annotations

import os
import re
from contextlib import suppress

from muster.core.printable import line as safe
from muster.rundir.run import Run, Unreadable

_TAIL = 16 << 10
"""Bytes at the end of a log that are searched."""

_PAIR = re.compile(r"""([A-Za-z_][\w./-]*)["']?\s*[=:]?\s*([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w.])""")
"""A name and a number: `loss=0.12`, `loss: 1e-3`, `step 12`, `"loss": 0.1`."""


def numbers_in(text: str) -> dict[str, str]:
    """Return the numbers in a line by the names before them, in order."""
    return {found[1]: found[2] for found in _PAIR.finditer(safe(text))}


def last_numbers(text: str) -> dict[str, str]:
    """Return the numbers of the last line that has any; empty if none has."""
    return next((found for line in reversed(text.splitlines()) if (found := numbers_in(line))), {})


def metrics_of(run: Run) -> dict[str, str]:
    """Return the last numbers that rank 0 of a run has printed, by name; empty if it has printed none."""
    attempts = run.attempts()
    for stream in ("out", "err") if attempts else ():
        with suppress(OSError, Unreadable), run.open_log(attempts[-1], 0, stream) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            if found := last_numbers(file.read().decode(errors="replace")):
                return found
    return {}
