"""What the ranks did at some moments: the table of collectives, and stacks that several ranks have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from muster.core.fold import by_value
from muster.core.hostlist import fold_hostlist
from muster.core.inspection import CollectiveRecord, Inspection, Snapshot, SnapshotReason
from muster.core.layout import fold, named
from muster.core.plurals import plural
from muster.report.data import ReportData
from muster.ui.formatting import seconds, shortened
from muster.ui.html import shown, table

_MOST_STACKS = 12
"""Number of different stacks that are shown."""
_MOST_SNAPSHOTS = 3
_THREAD = re.compile(r"0x[0-9a-f]+")

_REASONS = {
    SnapshotReason.REQUEST: "on request",
    SnapshotReason.FAILURE: "when a rank had failed",
    SnapshotReason.STOP: "before the ranks were terminated",
    SnapshotReason.HANG: "because the run made no progress",
}


def snapshots(data: ReportData) -> str:
    """Return the snapshots, the last one first; empty if there are none."""
    return "".join(_snapshot(found, data.hosts) for found in data.snapshots[:_MOST_SNAPSHOTS] if found.inspections)


def _snapshot(found: Snapshot, hosts: Sequence[str]) -> str:
    when = f"{seconds(found.when)} after the start, {_REASONS[found.reason]}"
    silent = [hosts[node] if node < len(hosts) else f"node {node}" for node in found.silent]
    missing = f"<p>no answer from {shown(fold_hostlist(silent))}</p>" if silent else ""
    collectives = _collectives(found.inspections)
    return f"<h3>{shown(when)}</h3>{missing}{collectives}{_stacks(found.inspections)}"


def _collectives(several: Iterable[Inspection]) -> str:
    """Return how far each rank is in each process group; equal ranks in one row."""
    rows = []
    for inspection in several:
        for group in inspection.groups:
            last = _last(inspection.collectives, group.group, group.enqueued)
            waits = group.enqueued > group.completed
            tensors = _tensors(last) if last is not None else ""
            op = (
                f"{last.op} #{group.enqueued}"
                if last is not None
                else f"#{group.enqueued}"
                if group.enqueued
                else "none"
            )
            state = "waits" if waits else "completed"
            name = group.description or group.group
            rows.append((inspection.rank, (name, op, tensors, state if group.enqueued else "")))
    if not rows:
        return ""
    alike = by_value(rows)
    lines = [(row[0], shortened(fold(ranks), 40), *row[1:]) for row, ranks in alike.items()]
    return table(("process group", "ranks", "last call", "tensors", "state"), lines)


def _last(records: Sequence[CollectiveRecord], group: str, seq: int) -> CollectiveRecord | None:
    return next((record for record in reversed(records) if record.group == group and record.seq == seq), None)


def _tensors(record: CollectiveRecord) -> str:
    """Return the tensors of a call: `Float [1024], Float [8, 8]`."""
    types = record.dtypes or ("",) * len(record.sizes)
    parts = [f"{kind} {list(size)}".strip() for kind, size in zip(types, record.sizes)]
    return shortened(", ".join(parts), 80)


def _stacks(several: Iterable[Inspection]) -> str:
    """Return the stacks, each with the ranks that have it; the fewest ranks first, for they differ from the rest."""
    texts = by_value((found.rank, _THREAD.sub("0x…", found.stacks.strip())) for found in several)
    groups = sorted(
        ((ranks, text) for text, ranks in texts.items() if text), key=lambda group: (len(group[0]), group[0])
    )
    parts = [
        f"<details{' open' if number < 2 else ''}><summary>{shown(_who(ranks))}: <span>{shown(_place(text))}</span>"
        f"</summary><pre>{shown(text)}</pre></details>"
        for number, (ranks, text) in enumerate(groups[:_MOST_STACKS])
    ]
    hidden = groups[_MOST_STACKS:]
    if hidden:
        ranks = [rank for several_ranks, _ in hidden for rank in several_ranks]
        parts.append(f"<p>{plural(len(hidden), 'other stack')} of {shown(_who(ranks))} not shown</p>")
    mute = texts.get("", [])
    if mute:
        parts.append(f"<p>no stack of {shown(_who(mute))}</p>")
    return "".join(parts)


def _who(ranks: Sequence[int]) -> str:
    words = shortened(named(ranks), 60)
    return f"{words} ({plural(len(ranks), 'rank')})" if len(ranks) > 2 else words


def _place(text: str) -> str:
    """Return the innermost line of the main thread, which faulthandler writes last."""
    last = text.rpartition("(most recent call first):")[2].strip().split("\n")[0].strip()
    found = re.match(r'File "(.*)", line (\d+) in (.*)', last)
    if not found:
        return shortened(last, 80)
    path, line, function = found.groups()
    return f"{path.rpartition('/')[2]}:{line} in {function}"
