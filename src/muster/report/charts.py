"""The pictures of the report: the start-up by step and node, and resources over time."""

from __future__ import annotations

from collections.abc import Sequence

from muster.core.plurals import plural
from muster.report.data import NodeStart, ReportData, Resource, Series
from muster.ui.formatting import seconds, size_in_words
from muster.ui.html import shown
from muster.ui.summary import Step
from muster.ui.text import STEPS

_MOST_NODES = 12
"""Maximum number of nodes whose start-up is shown: the slowest."""
_MOST_CURVES = 8
"""Maximum number of curves in a picture: those with the highest values."""
_COLOURS = {
    Step.MUSTER: "k0",
    Step.PROBE: "k4",
    Step.REACH: "k4",
    Step.PYTHON: "k2",
    Step.IMPORT: "k1",
    Step.PREPARE_FORK: "k3",
    Step.PREPARE: "k3",
    Step.START: "k6",
    Step.FIRST_OUTPUT: "k5",
    Step.LAST_OUTPUT: "k5",
}
_WIDE, _HIGH = 600, 100
"""The size of a picture in its own units; it is stretched to the width of its place."""


def startup(data: ReportData) -> str:
    """Return the steps of the start-up of each node, the slowest node first; empty if they are not known."""
    slowest = sorted(data.startup, key=_total, reverse=True)[:_MOST_NODES]
    if not slowest:
        return ""
    longest = _total(slowest[0]) or 1.0
    rows = []
    for start in slowest:
        host = data.hosts[start.node] if start.node < len(data.hosts) else f"node {start.node}"
        parts, at = [], 0.0
        for step, length in start.steps:
            if length > 0:
                title = shown(f"{seconds(length)} {STEPS[step]}")
                where = f"left:{100 * at / longest:.2f}%;width:{100 * length / longest:.2f}%"
                parts.append(f'<i class="{_COLOURS[step]}" style="{where}" title="{title}"></i>')
            at += length
        rows.append(f'<div class="name">{shown(host)}</div><div class="track">{"".join(parts)}</div>')
    axis = f'<div></div><div class="axis"><span>0</span><span>{seconds(longest)}</span></div>'
    used = {step: length for start in reversed(slowest) for step, length in start.steps}
    legend = "".join(
        f'<span><b class="{_COLOURS[step]}"></b>{shown(STEPS[step])}, {length:.2f}s</span>'
        for step, length in used.items()
        if step is not Step.LAST_OUTPUT or length > 0
    )
    hidden = len(data.startup) - len(slowest)
    more = f"<p>{plural(hidden, 'faster node')} not shown</p>" if hidden else ""
    several = "<p>The times are those of the slowest node.</p>" if len(slowest) > 1 else ""
    return f'<div class="rows">{"".join(rows)}{axis}</div><div class="legend">{legend}</div>{several}{more}'


def _total(start: NodeStart) -> float:
    return sum(length for _, length in start.steps)


# ---- resources ------------------------------------------------------------------------------------------------------

_TITLES = {
    Resource.STEP: "steps of ranks",
    Resource.CPU: "CPU of ranks, percent of a core",
    Resource.NODE_CPU: "CPU of hosts, percent of all cores",
    Resource.MEMORY: "memory of ranks",
    Resource.NODE_MEMORY: "memory of hosts",
    Resource.GPU: "GPUs, percent of the time",
    Resource.GPU_MEMORY: "memory of GPUs",
}


def resources(data: ReportData) -> str:
    """Return a picture for each resource that was measured; empty if none was."""
    end = max([data.now, *(series.points[-1][0] for series in data.resources if series.points)], default=1.0) or 1.0
    pictures = []
    for resource, title in _TITLES.items():
        several = [series for series in data.resources if series.resource is resource and series.points]
        if several:
            pictures.append(_picture(resource, title, several, end, data.hosts))
    return f'<div class="charts">{"".join(pictures)}</div>' if pictures else ""


def _picture(resource: Resource, title: str, several: Sequence[Series], end: float, hosts: Sequence[str]) -> str:
    """Return the curves of one resource, with the highest value as its scale."""
    shown_ones = sorted(several, key=_peak, reverse=True)[:_MOST_CURVES]
    peak = _peak(shown_ones[0]) or 1.0
    lines = []
    for number, series in enumerate(shown_ones):
        points = " ".join(
            f"{_WIDE * at / end:.1f},{_HIGH - (_HIGH - 4) * max(0.0, value) / peak:.1f}" for at, value in series.points
        )
        lines.append(f'<polyline points="{points}" stroke="var(--s{(number + 1) % 5})"/>')
    names = "".join(
        f'<span><b class="k{(number + 1) % 5}"></b>{shown(_name(series, hosts))}, '
        f"at most {_value(resource, _peak(series))}</span>"
        for number, series in enumerate(shown_ones)
    )
    hidden = len(several) - len(shown_ones)
    more = f"<span>and {hidden} lower</span>" if hidden else ""
    axis = f'<div class="axis"><span>0</span><span>{seconds(end)}</span></div>'
    return (
        f"<figure><b>{title}</b> <small>up to {_value(resource, peak)}</small>"
        f'<svg class="curve" viewBox="0 0 {_WIDE} {_HIGH}" preserveAspectRatio="none" role="img">{"".join(lines)}</svg>'
        f'{axis}<div class="legend">{names}{more}</div></figure>'
    )


def _peak(series: Series) -> float:
    return max((value for _, value in series.points), default=0.0)


def _name(series: Series, hosts: Sequence[str]) -> str:
    if series.rank is not None:
        return f"rank {series.rank}"
    host = hosts[series.node] if series.node < len(hosts) else f"node {series.node}"
    return f"GPU {series.gpu} of {host}" if series.gpu is not None else host


def _value(resource: Resource, value: float) -> str:
    if resource is Resource.STEP:
        return f"{value:,.0f}"
    return size_in_words(int(value)) if resource in _SIZES else f"{value:.0f}%"


_SIZES = (Resource.MEMORY, Resource.NODE_MEMORY, Resource.GPU_MEMORY)
