"""The wording of what ranks have used until their exit: a table of the ranks, folded if there are many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from muster.core.results import RankExit, RankUsage
from muster.ui.formatting import seconds, size_in_words, table

_FEW = 8
"""Number of ranks up to which each has a row."""


class _Measure(NamedTuple):
    """Something that was measured for each rank."""

    name: str
    of: Callable[[RankUsage], float | None]
    """Returns the value; None if it is unknown."""
    shown: Callable[[float], str]
    needed: float = 0.0
    """It is shown if a rank has at least so much: most ranks never wait for a disk."""


def _in_a_row(name: str) -> str:
    """Return the name of a measure as the first cell of a row."""
    return " ".join(word if word in ("CPU", "RSS", "I/O") else word.lower() for word in name.split())


def _size(value: float) -> str:
    return size_in_words(int(value))


def _time(value: float) -> str:
    """Return seconds with two digits below one second: a rank that only prints needs 0.03 s of CPU time."""
    return f"{value:.2f}s" if value < 0.995 else seconds(value)


def _count(value: float) -> str:
    return f"{value:,.0f}"


_MEASURES = (
    _Measure("STEP", lambda used: used.step, _count),
    _Measure("PEAK RSS", lambda used: used.peak_memory, _size),
    _Measure("CHILDREN RSS", lambda used: used.children_peak, _size, 1),
    _Measure("CPU TIME", lambda used: used.user + used.system, _time),
    _Measure("SYSTEM TIME", lambda used: used.system, _time),
    _Measure("CHILDREN CPU", lambda used: used.children_cpu, _time, 0.05),
    _Measure("CPU WAIT", lambda used: used.core_wait, _time, 0.05),
    _Measure("I/O WAIT", lambda used: used.io_wait, _time, 0.05),
    _Measure("READ", lambda used: used.read, _size, 1 << 20),
    _Measure("WRITTEN", lambda used: used.written, _size, 1 << 20),
    _Measure("MAJOR FAULTS", lambda used: used.major_faults, _count, 1),
    _Measure("CONTEXT SWITCHES", lambda used: used.voluntary_switches + used.involuntary_switches, _count),
)


def usage_in_words(exits: Sequence[RankExit]) -> str:
    """Return a table of what the ranks have used; of many ranks the least, the median and the most, and who that was.

    Empty if nothing is known, as of runs of an older version.
    """
    known = [(end.rank, end.usage) for end in exits if end.usage is not None]
    values = {measure: [(measure.of(used), rank) for rank, used in known] for measure in _MEASURES}
    told = {
        measure: [(value, rank) for value, rank in found if value is not None]
        for measure, found in values.items()
        if any(value is not None and value >= measure.needed for value, _ in found)
    }
    if not told:
        return ""
    if len(known) <= _FEW:
        rows = [("RANK", *(measure.name for measure in told))]
        for rank, used in known:
            cells = ((measure, measure.of(used)) for measure in told)
            rows.append((str(rank), *("" if value is None else measure.shown(value) for measure, value in cells)))
        return table(rows)
    rows = [(f"{len(known)} RANKS", "MIN", "MEDIAN", "MAX", "RANK OF MAX")]
    for measure, pairs in told.items():
        ordered = sorted(pairs)
        most = max(ordered, key=lambda pair: (pair[0], -pair[1]))
        median = ordered[len(ordered) // 2][0]
        shown = (measure.shown(value) for value in (ordered[0][0], median, most[0]))
        rows.append((_in_a_row(measure.name), *shown, str(most[1])))
    return table(rows)
