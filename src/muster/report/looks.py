"""What the ranks did at some moments: why they stood still, their collectives, and stacks that they have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from muster.core.fold import by_value
from muster.core.hostlist import fold_hostlist
from muster.core.inspection import CollectiveRecord, Inspection, SnapshotReason
from muster.core.layout import fold
from muster.core.plurals import plural
from muster.core.results import StopKind
from muster.core.root_cause import is_own_failure
from muster.core.verdict import Verdict, VerdictKind
from muster.diagnostics.hangs.standing import dtype_name
from muster.diagnostics.stack_text import threads_of, visible
from muster.report.data import Look, ReportData
from muster.ui.formatting import seconds, shortened
from muster.ui.hang_text import situation_in_words, verdict_in_words
from muster.ui.html import shown, table
from muster.ui.stacks_text import shown as shown_stack

_MOST_STACKS, _OPEN_STACKS = 12, 2
"""How many different stacks are shown, and unfolded at first."""
_MOST_ROWS = 64
"""Maximum number of rows of the table of collectives."""

_REASONS = {
    SnapshotReason.REQUEST: "on request",
    SnapshotReason.FAILURE: "just after a rank failed",
    SnapshotReason.STOP: "before the ranks were terminated",
    SnapshotReason.HANG: "when the ranks made no progress",
}

_TELLS_NOTHING = (VerdictKind.PROGRESS, VerdictKind.NO_WAIT, VerdictKind.UNKNOWN)


def why_in_words(data: ReportData) -> str:
    """Return why the ranks stood still in the end; empty if they did not, or if a rank failed by itself."""
    first = data.outcome.root_cause if data.outcome is not None else None
    stopped = data.outcome.stopped if data.outcome is not None else None
    told = stopped is not None and stopped.kind is StopKind.HANG and stopped.message  # the result says it
    if told or not data.looks or (first is not None and is_own_failure(first)):
        return ""
    last = data.looks[0].verdict
    return "" if last.kind in _TELLS_NOTHING else verdict_in_words(last, _hosts(data))


def looks(data: ReportData) -> str:
    """Return the moments, the last one first; empty if there are none."""
    parts = []
    for number, look in enumerate(data.looks):
        if look.snapshot.inspections:
            title = f"{seconds(look.snapshot.when)} after the start, {_REASONS[look.snapshot.reason]}"
            body = _look(look, data)
            parts.append(
                f"<h3>{shown(title)}</h3>{body}"
                if number == 0
                else f"<details><summary>{shown(title)}</summary>{body}</details>"
            )
    return "".join(parts)


def _look(look: Look, data: ReportData) -> str:
    silent = [_host(data, node) for node in look.snapshot.silent]
    missing = f"<p>no answer from {shown(fold_hostlist(silent))}</p>" if silent else ""
    evidence = _evidence(look.verdict)
    return f"{missing}{evidence}{_collectives(look.snapshot.inspections)}{_stacks(look)}"


def _hosts(data: ReportData) -> dict[int, str]:
    """Return the host of each rank."""
    spans = data.attempts[-1].ranks if data.attempts else ()
    return {span.rank: _host(data, span.node) for span in spans}


def _host(data: ReportData, node: int) -> str:
    return data.hosts[node] if node < len(data.hosts) else f"node {node}"


def _evidence(verdict: Verdict) -> str:
    """Return what each rank does; ranks that do the same in one row."""
    rows = [(_who(found.ranks), situation_in_words(found) or "unknown") for found in verdict.situations]
    if not rows:
        return ""
    items = "".join(f"<dt>{shown(name)}</dt><dd>{shown(words)}</dd>" for name, words in rows[:_MOST_ROWS])
    return f"<dl>{items}</dl>"


def _collectives(several: Iterable[Inspection]) -> str:
    """Return how far each rank is in each process group; equal ranks in one row."""
    rows = []
    for inspection in several:
        for group in inspection.groups:
            last = _last(inspection.collectives, group.group, group.enqueued)
            name = group.description or group.group
            op = f"{last.op} " if last is not None else ""
            call = f"{op}#{group.enqueued}" if group.enqueued else "none"
            state = "" if not group.enqueued else "waiting" if group.enqueued > group.completed else "completed"
            rows.append((inspection.rank, (name, call, _tensors(last) if last is not None else "", state)))
    if not rows:
        return ""
    lines = [(name, shortened(fold(ranks), 40), *rest) for (name, *rest), ranks in by_value(rows).items()]
    lines.sort(key=lambda line: line[0])
    heads = ("process group", "ranks", "last collective", "tensors", "state")
    hidden = len(lines) - _MOST_ROWS
    more = f"<p>{plural(hidden, 'more row')} not shown</p>" if hidden > 0 else ""
    return table(heads, lines[:_MOST_ROWS]) + more


def _last(records: Sequence[CollectiveRecord], group: str, seq: int) -> CollectiveRecord | None:
    return next((record for record in reversed(records) if record.group == group and record.seq == seq), None)


def _tensors(record: CollectiveRecord) -> str:
    """Return the tensors of a call: `float32 [1024], float32 [8, 8]`."""
    types = tuple(map(dtype_name, record.dtypes)) or ("",) * len(record.sizes)
    parts = [f"{kind} {list(size)}".strip() for kind, size in zip(types, record.sizes)]
    return shortened(", ".join(parts), 80)


def _stacks(look: Look) -> str:
    """Return the stacks, each with the ranks that have it; the fewest ranks first, for they differ from the rest."""
    doing = {rank: situation_in_words(found) for found in look.verdict.situations for rank in found.ranks}
    texts = {found.rank: found.stacks for found in look.snapshot.inspections}
    pairs = ((rank, tuple(thread.frames for thread in visible(threads_of(text)))) for rank, text in texts.items())
    alike = sorted(
        (ranks for frames, ranks in by_value(pairs).items() if any(frames)), key=lambda ranks: (len(ranks), ranks)
    )
    parts = []
    for number, ranks in enumerate(alike[:_MOST_STACKS]):
        words = doing.get(ranks[0], "")
        head = f"{_who(ranks)}" + (f": <span>{shown(words)}</span>" if words else "")
        text = shown_stack(texts[ranks[0]], every=False)
        opened = " open" if number < _OPEN_STACKS else ""
        parts.append(f"<details{opened}><summary>{head}</summary><pre>{shown(text)}</pre></details>")
    hidden = [rank for ranks in alike[_MOST_STACKS:] for rank in ranks]
    if hidden:
        parts.append(f"<p>{plural(len(alike) - _MOST_STACKS, 'other stack')} of {shown(_who(hidden))} not shown</p>")
    return "".join(parts)


def _who(ranks: Iterable[int]) -> str:
    """Return ranks, with their number if there are many."""
    numbers = sorted(ranks)
    words = shortened(f"rank{'s' if len(numbers) != 1 else ''} {fold(numbers)}", 60)
    return f"{words} ({plural(len(numbers), 'rank')})" if len(numbers) > 2 else words
