"""The timeline of the report: a row for each rank, or for ranks that fared alike, with their attempts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from muster.core.layout import fold
from muster.core.plurals import plural
from muster.core.results import FailureKind, RankExit
from muster.report.data import Attempt, RankSpan, ReportData
from muster.ui.formatting import seconds, shortened
from muster.ui.html import shown
from muster.ui.reason_text import ended_in_words

_MOST_ROWS = 48
"""Maximum number of rows; with more ranks, those that fared alike share a row."""


class _Kind(NamedTuple):
    """How ranks ended, in the timeline."""

    style: str
    label: str


_SUCCEEDED = _Kind("c-good", "succeeded")
_FIRST = _Kind("c-bad", "failed first")
_FAILED = _Kind("c-warn", "failed afterwards")
_LOST_PEER = _Kind("c-lost", "lost a peer")
_ENDED = _Kind("c-end", "terminated")
_RUNS = _Kind("c-run", "running")
_UNSEEN = _Kind("c-unseen", "exit not observed")


class _Bar(NamedTuple):
    """One attempt in a row. Times are seconds since the start of the run."""

    began: float
    output: float | None
    ended: float
    kind: _Kind
    title: str


class _Row(NamedTuple):
    name: str
    bars: tuple[_Bar, ...]


def timeline(data: ReportData) -> str:
    """Return the timeline; empty if no rank was started."""
    rows = _rows(data)
    if not rows:
        return ""
    end = max([data.now, *(bar.ended for row in rows for bar in row.bars)]) or 1.0
    lines = "".join(
        f'<div class="name">{shown(row.name)}</div>'
        f'<div class="track">{"".join(_bar(bar, end) for bar in row.bars)}</div>'
        for row in rows
    )
    axis = (
        f'<div></div><div class="axis"><span>0</span><span>{seconds(end / 2)}</span><span>{seconds(end)}</span></div>'
    )
    return f'<div class="rows">{lines}{axis}</div>{_legend(rows)}{_attempts(data)}'


def _bar(bar: _Bar, end: float) -> str:
    """Return the bar of one attempt: until the first output, from there on, and how it ended."""
    first = min(bar.output if bar.output is not None else bar.ended, bar.ended)
    title = shown(bar.title)
    parts = [_part("c-start", bar.began, first, end, title)]
    if first < bar.ended:
        parts.append(_part("c-run", first, bar.ended, end, title))
    if bar.kind is not _RUNS:
        at = min(99.6, 100 * bar.ended / end)
        parts.append(f'<i class="mark {bar.kind.style}" style="left:{at:.2f}%" title="{title}"></i>')
    return "".join(parts)


def _part(style: str, begin: float, until: float, end: float, title: str) -> str:
    left, width = 100 * begin / end, 100 * max(0.0, until - begin) / end
    return f'<i class="{style}" style="left:{left:.2f}%;width:{width:.2f}%" title="{title}"></i>'


def _legend(rows: Iterable[_Row]) -> str:
    """Return the meaning of the colors that occur."""
    kinds = {bar.kind for row in rows for bar in row.bars}
    entries = [_Kind("c-start", "until its first output"), _Kind("c-run", "after that")]
    entries += [kind for kind in (_FIRST, _FAILED, _LOST_PEER, _ENDED, _SUCCEEDED, _UNSEEN) if kind in kinds]
    return (
        '<div class="legend">'
        + "".join(f'<span><b class="{kind.style}"></b>{kind.label}</span>' for kind in entries)
        + "</div>"
    )


def _attempts(data: ReportData) -> str:
    """Return how each attempt ended, if there were several."""
    if len(data.attempts) < 2:
        return ""
    lines = []
    for attempt in data.attempts:
        first = attempt.root_cause
        how = f"rank {first.rank}: {ended_in_words(first)}" if first is not None else "no rank failed"
        until = f" to {seconds(attempt.ended)}" if attempt.ended is not None else ""
        lines.append(f"<p>attempt {attempt.number}, {seconds(attempt.began)}{until}: {shown(how)}</p>")
    return "".join(lines)


# ---- rows -----------------------------------------------------------------------------------------------------------


def _rows(data: ReportData) -> list[_Row]:
    """Return the rows: one for each rank, or for ranks that fared alike if there are many."""
    if not data.attempts:
        return []
    over = data.outcome is not None
    by_rank: dict[int, list[tuple[Attempt, RankSpan]]] = {}
    for attempt in data.attempts:
        for span in attempt.ranks:
            if span.started is not None or span.end is not None:
                by_rank.setdefault(span.rank, []).append((attempt, span))
    groups: dict[tuple[object, ...], list[int]] = {}
    fold_all = len(by_rank) > _MOST_ROWS
    for rank, lives in sorted(by_rank.items()):
        kinds = tuple(_kind(attempt, span, over) for attempt, span in lives)
        node = lives[-1][1].node
        groups.setdefault((node, *kinds) if fold_all else (rank,), []).append(rank)
    if len(groups) > _MOST_ROWS:  # many nodes
        groups = {}
        for rank, lives in sorted(by_rank.items()):
            groups.setdefault(tuple(_kind(attempt, span, over) for attempt, span in lives), []).append(rank)
    return [_row(data, ranks, [by_rank[rank] for rank in ranks]) for ranks in list(groups.values())[:_MOST_ROWS]]


def _row(data: ReportData, ranks: Sequence[int], lives: Sequence[Sequence[tuple[Attempt, RankSpan]]]) -> _Row:
    """Return the row of these ranks; each bar is from the first start to the last exit of them."""
    nodes = sorted({life[-1][1].node for life in lives})
    name = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {shortened(fold(ranks), 24)}"
    if len(data.hosts) > 1:
        host = data.hosts[nodes[0]] if nodes[0] < len(data.hosts) else "?"
        name += f" · {host}" if len(nodes) == 1 else f" · {plural(len(nodes), 'host')}"
    bars = []
    for number in range(max(map(len, lives))):
        several = [life[number] for life in lives if number < len(life)]
        attempt = several[0][0]
        spans = [span for _, span in several]
        outputs = [span.output for span in spans if span.output is not None]
        ends = [span.ended for span in spans if span.ended is not None]
        starts = [span.started for span in spans if span.started is not None]
        end = max(ends) if len(ends) == len(spans) else data.now
        bars.append(
            _Bar(
                min(starts, default=attempt.began),
                min(outputs, default=None),
                end,
                _kind(attempt, spans[0], data.outcome is not None),
                _title(attempt, spans[0], data),
            )
        )
    return _Row(name, tuple(bars))


def _title(attempt: Attempt, span: RankSpan, data: ReportData) -> str:
    """Return what a bar tells when it is pointed at."""
    of = f"attempt {attempt.number}, " if len(data.attempts) > 1 else ""
    kind = _kind(attempt, span, data.outcome is not None)
    if span.end is None:
        return f"{of}{kind.label}"
    return f"{of}{kind.label} after {seconds(span.end.when)}: {ended_in_words(span.end)}"


def _kind(attempt: Attempt, span: RankSpan, over: bool) -> _Kind:
    end = span.end
    if end is None:
        return _UNSEEN if over else _RUNS
    if end.ok:
        return _SUCCEEDED
    if attempt.root_cause is not None and attempt.root_cause.rank == span.rank:
        return _FIRST
    return _kind_of_others(end)


def _kind_of_others(end: RankExit) -> _Kind:
    if end.by_muster or end.by_launcher:
        return _ENDED
    lost = end.failure is not None and end.failure.kind is FailureKind.PEER_LOST
    return _LOST_PEER if lost else _FAILED
