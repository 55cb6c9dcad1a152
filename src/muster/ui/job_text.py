"""The wording of the scheduler's job of a run: its number, why it waits, where it runs, and for how long."""

from __future__ import annotations

import time
from collections.abc import Sequence

from muster.core.hostlist import fold_hostlist
from muster.core.job_facts import JobFacts
from muster.core.layout import fold
from muster.core.model import Node
from muster.core.printable import line as safe
from muster.ui.formatting import seconds


def job_in_words(facts: JobFacts, now: float) -> list[str]:
    """Return the lines of `muster show` about a job that waits or runs; `now` is the Unix time."""
    more = [f"partition {facts.partition}"] if facts.partition else []
    more += [f"priority {facts.priority}"] if facts.priority and facts.pending else []
    if not facts.pending:
        more += [f"on {fold_hostlist(facts.hosts)}"] if facts.hosts else []
        more += [f"attempt {facts.attempt}"] if facts.attempt is not None else []
    lines = [safe(f"job      {facts.scheduler} job {', '.join((facts.job, *more))}")]
    if not facts.pending:
        if facts.end is not None:
            left = seconds(max(0.0, facts.end - now))
            lines.append(f"left     {left} until its time limit, at {_moment(facts.end)}")
        return lines
    if facts.submitted is not None:
        lines.append(f"waiting  {seconds(max(0.0, now - facts.submitted))}, since {_moment(facts.submitted)}")
    if facts.start is not None and facts.start > now:
        lines.append(f"start    expected in {seconds(facts.start - now)}, at {_moment(facts.start)}")
    return lines


def _moment(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


_FEW = 16
"""Number of nodes up to which the ranks of each are shown."""


def ranks_in_words(nodes: Sequence[Node]) -> list[str]:
    """Return the line that says which ranks are on which host; empty for a run on one host, or on many."""
    if not 1 < len(nodes) <= _FEW:
        return []
    return [safe("hosts    " + ", ".join(f"{node.host.name}: {_ranks(node)}" for node in nodes))]


def _ranks(node: Node) -> str:
    numbers = fold(rank.rank for rank in node.ranks)
    return f"rank {numbers}" if len(node.ranks) == 1 else f"ranks {numbers}"
