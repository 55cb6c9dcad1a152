"""The wording of sweeps and chains: a table of the points, and their progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from muster.core.printable import line as safe
from muster.core.sweep import Point
from muster.ui.formatting import seconds, table

_MOST_METRICS = 4
"""Maximum number of metrics in a table."""


class PointRow(NamedTuple):
    """What is shown of a point."""

    point: Point
    state: str
    code: int | None = None
    seconds: float | None = None
    job: str = ""
    run: str = ""
    """The id of its run; empty if it has none."""
    metrics: Mapping[str, str] = {}
    """The last numbers that it printed."""


def metric_names(rows: Sequence[PointRow], chosen: str | None = None) -> list[str]:
    """Return the names of the metrics to show: the chosen one, or the first ones that points have."""
    if chosen is not None:
        return [chosen]
    found = dict.fromkeys(name for row in rows for name in row.metrics)
    parameters = {name for row in rows for name, _ in row.point.values}
    return [name for name in found if name not in parameters][:_MOST_METRICS]


def points_in_words(rows: Sequence[PointRow], noun: str = "POINT", metric: str | None = None) -> str:
    """Return a table of the points; with a `metric`, ordered by it, so that the smallest comes first."""
    names = [name for name, _ in rows[0].point.values] if rows else []
    metrics, jobs = metric_names(rows, metric), any(row.job for row in rows)
    if metric is not None:
        rows = sorted(rows, key=lambda row: float(row.metrics.get(metric, "inf")))
    head = (noun, *names, "STATE", "EXIT", "DURATION", *(["JOB"] * jobs), *metrics)
    lines: list[Sequence[str]] = [head]
    for row in rows:
        code = "" if row.code is None else str(row.code)
        took = "" if row.seconds is None else seconds(row.seconds)
        values = [value for _, value in row.point.values]
        numbers = [row.metrics.get(name, "") for name in metrics]
        lines.append((str(row.point.number), *values, row.state, code, took, *([row.job] * jobs), *numbers))
    return table(lines)


def end_of_point(row: PointRow, total: int, operand: str, noun: str = "point") -> str:
    """Return the line that says how a point has ended, with the command for its log if it did not succeed."""
    label = f" ({safe(row.point.label)})" if row.point.label else ""
    took = f" in {seconds(row.seconds)}" if row.seconds is not None else ""
    how = f"{row.state}{took}" if not row.code else f"{row.state}{took}, exit code {row.code}"
    log = f"; log: muster logs {operand}" if row.code else ""
    return f"{noun} {row.point.number} of {total}{label}: {how}{log}"
