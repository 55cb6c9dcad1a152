"""What a rank that has failed left behind: its last output, and the notes that its site hook and torch wrote."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from muster.agent.failure import Evidence
from muster.agent.logfiles import tail, tail_with_traceback
from muster.protocol.paths import rank_file

_LARGEST = 1 << 20
"""Maximum bytes of a note."""


def gather(
    folder: str, rank: int, kind: str, offset: int, unlogged: bytes, traceback_at: float | None = None
) -> Evidence:
    """Return what a rank left in the directory of its attempt.

    `kind` is the log that has its stderr, whose last traceback begins at `offset`, and was seen at the monotonic time
    `traceback_at`; `unlogged` is what the log lacks.
    """
    log, out = rank_file(folder, rank, kind), rank_file(folder, rank, "out")
    note = _object(rank_file(folder, rank, "exception.json"))
    at = note.get("at")
    began = _began_to_exit(rank_file(folder, rank, "stack"))
    return Evidence(
        tail_with_traceback(log, offset) + unlogged,
        tail(out),
        note=note or None,
        noted_at=float(at) if isinstance(at, (int, float)) and not isinstance(at, bool) else None,
        hooked=began is not None,
        record=_recorded(_object(rank_file(folder, rank, "error.json"))),
        err_age=_age(log, began, traceback_at),
        out_age=_age(out, began),
    )


def _began_to_exit(stack: str) -> float | None:
    """Return when the interpreter began to exit, as the site hook marks it; None if the hook was not active."""
    try:
        return os.stat(stack).st_mtime
    except OSError:
        return None


def _age(log: str, began: float | None, traceback_at: float | None = None) -> float | None:
    """Return the seconds from the last write to a log until its rank began to exit.

    If libraries wrote something while it exited, that is no write of the script's: the time from the last traceback
    counts then, if one was seen.
    """
    try:
        written = os.stat(log).st_mtime
    except OSError:
        return None
    if began is not None and traceback_at is not None and written > began:
        return max(0.0, time.monotonic() - (time.time() - began) - traceback_at)
    # without a mark, as after os._exit, it has exited only now
    return max(0.0, (began if began is not None and began >= written else time.time()) - written)


def _object(path: str) -> Mapping[str, Any]:
    """Return the JSON object in a file; an empty one if it is missing or damaged."""
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(_LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _recorded(error: Mapping[str, Any]) -> str:
    """Return the traceback in the file that torch's `@record` writes."""
    message = error.get("message")
    extra = message.get("extraInfo") if isinstance(message, dict) else None
    stack = extra.get("py_callstack") if isinstance(extra, dict) else None
    return stack if isinstance(stack, str) else ""
