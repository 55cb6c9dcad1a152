"""The last lines of the logs that matter for a report."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from muster.core.env_forwarding import without_secrets
from muster.core.results import RankExit, RunResult
from muster.errors import MusterError
from muster.report.data import Attempt, LogEnd
from muster.rundir.run import Run

_RANKS = 4
"""Maximum number of ranks whose logs are shown."""
_LINES = {"err": 40, "out": 20}
_BYTES = 1 << 15
"""Bytes that are read at the end of a log."""
_LONGEST = 600
"""Characters that are shown of a line."""
_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
"""Escape sequences of terminals."""


def ends_of_logs(
    run: Run, attempt: Attempt | None, outcome: RunResult | None, secrets: Iterable[str] = ()
) -> tuple[LogEnd, ...]:
    """Return the last lines of the ranks that matter in the last attempt, the rank that failed first before others."""
    if attempt is None:
        return ()
    found = []
    for rank in ranks_that_matter(attempt, outcome):
        for stream in ("err", "out"):
            end = _end_of_log(run, attempt.number, rank, stream, tuple(secrets))
            if end is not None:
                found.append(end)
    return tuple(found)


def ranks_that_matter(attempt: Attempt, outcome: RunResult | None) -> list[int]:
    """Return the rank that failed first, one rank for each other kind of exit, and rank 0."""
    first = outcome.root_cause if outcome is not None else attempt.root_cause
    chosen = [first.rank] if first is not None else []
    seen = {_likeness(first)} if first is not None else set()
    for span in attempt.ranks:
        likeness = _likeness(span.end)
        if likeness not in seen and span.rank not in chosen:
            seen.add(likeness)
            chosen.append(span.rank)
    if attempt.ranks and attempt.ranks[0].rank not in chosen:
        chosen.append(attempt.ranks[0].rank)
    return chosen[:_RANKS]


def _likeness(end: RankExit | None) -> tuple[object, ...]:
    if end is None:
        return ()
    return end.code, end.signal, end.by_muster, end.by_launcher, end.failure.kind if end.failure else None


def _end_of_log(run: Run, attempt: int, rank: int, stream: str, secrets: tuple[str, ...]) -> LogEnd | None:
    """Return the last lines of a log; None if it is empty or cannot be read."""
    try:
        with run.open_log(attempt, rank, stream) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _BYTES))
            data = file.read(_BYTES)
    except (OSError, MusterError):
        return None
    lines = data.decode("utf-8", "replace").rstrip("\n").split("\n")
    if size > _BYTES:
        del lines[0]  # a part of a line
    shown = [_line(line, secrets) for line in lines[-_LINES[stream] :]]
    if not any(shown):
        return None
    return LogEnd(rank, attempt, stream, tuple(shown), size > _BYTES or len(lines) > len(shown))


def _line(line: str, secrets: tuple[str, ...]) -> str:
    """Return a line as it would stand on a terminal, without colors and secrets."""
    text = _SEQUENCE.sub("", line).rstrip("\r").rpartition("\r")[2]
    text = without_secrets(text, secrets)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
