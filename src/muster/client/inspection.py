"""What the ranks of a running run are doing, asked from its controller or agent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from muster.client.client import Client, ask
from muster.core.inspection import CollectiveTimes, Snapshot
from muster.core.json_checks import Malformed, number, several, whole
from muster.core.json_inspection import collective_times_from_json, snapshot_from_json
from muster.errors import ControlError
from muster.rundir.run import Run

_WITHIN = 8.0
"""Seconds for everyone to answer: a controller waits for its agents for 4 s."""


class Times(NamedTuple):
    """When the ranks of a run called their last collectives."""

    times: tuple[CollectiveTimes, ...]
    """By rank, then by process group."""
    clock_offsets: tuple[float, ...] = ()
    """Seconds by which the clock of each node is ahead of that of node 0, by node; empty if they were not measured."""
    silent: tuple[int, ...] = ()
    """Nodes whose agent did not answer."""


def inspect(run: Run, client: Client | None = None, ranks: Sequence[int] | None = None, keep: bool = False) -> Snapshot:
    """Return what the ranks of a running run are doing now: all of them, or these.

    `keep`: write the snapshot to the run directory too, where a controller runs beside it. Takes some milliseconds, or
    4 s if hosts do not answer. Raises `ControlError`, `Unreachable`: also for a run of a version without this request.
    """
    answer = ask(run, "inspect", client, _WITHIN, ranks=None if ranks is None else list(ranks), keep=keep)
    try:
        found = snapshot_from_json(answer.get("snapshot"))
    except Malformed as error:
        raise ControlError(f"invalid answer from {run.id}: {error}", None) from None
    if not run.job.get("served"):  # an agent does not know when the run began
        found = found._replace(when=max(0.0, time.time() - float(run.job.get("time", time.time()))))
    return found


def collective_times(run: Run, client: Client | None = None) -> Times:
    """Return when the ranks of a running run called their last collectives: the last 2,000 of each rank.

    Raises as `inspect` does.
    """
    answer = ask(run, "collectives", client, _WITHIN)
    try:
        return Times(
            several(collective_times_from_json)(answer.get("times", ())),
            several(number)(answer.get("clock_offsets", ())),
            several(whole)(answer.get("missing", ())),
        )
    except Malformed as error:
        raise ControlError(f"invalid answer from {run.id}: {error}", None) from None
