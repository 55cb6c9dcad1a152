"""`muster show --slow`: which ranks of a run arrive late at their collectives, and why."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from muster.client import usage
from muster.client.client import Client
from muster.client.inspection import Times, collective_times
from muster.core.model import as_json
from muster.core.pace import Cause, Pace
from muster.core.progress import behind
from muster.core.results import RunState
from muster.diagnostics.stragglers import causes_of, clocks_of, find_slow
from muster.errors import InvalidRequest
from muster.rundir.pace import read_pace
from muster.rundir.run import Run
from muster.ui.pace_text import behind_in_words, pace_in_words

_SHOWN = 4
"""Ranks in the hint."""


def show_slow(run: Run, state: RunState, client: Client, as_object: bool) -> int:
    """Print the pace of the ranks: of a running run as it is now, of an ended one as it was last seen."""
    causes: Mapping[tuple[int, ...], tuple[Cause, ...]] = {}
    late: Mapping[int, int] = {}
    if state is RunState.RUNNING:
        pace = pace_of(run, collective_times(run, client))
        if pace.slow:
            pressures = {rank.rank: rank.pressure for rank in usage.of(run, client).ranks}
            everyone = [rank for slow in pace.slow for rank in slow.ranks]
            causes = {slow.ranks: causes_of(slow.ranks, pressures, everyone) for slow in pace.slow}
        if pace.nothing is not None:
            late = _behind_in_steps(run, client)
    else:
        kept = read_pace(run)
        if kept is None:
            hint = "they are recorded from 20 seconds after the start of the ranks on, if the ranks call collectives"
            raise InvalidRequest(f"no times of collectives were recorded for {run.id}", hint)
        pace = kept
    if as_object:
        of_ranks = [{"ranks": list(ranks), "causes": as_json(found)} for ranks, found in causes.items()]
        print(json.dumps({"id": run.id, "pace": as_json(pace), "causes": of_ranks, "steps_behind": late}, indent=1))
        return 0
    print(pace_in_words(pace, run.hosts, causes))
    if late:
        print(behind_in_words(late))
    shown = pace.slow[0].ranks if pace.slow else tuple(late)
    if shown and state is RunState.RUNNING:
        ranks = ",".join(map(str, shown[:_SHOWN]))
        print(f"hint: see what it does: muster stacks {run.operand} --rank {ranks}")
    return 0


def _behind_in_steps(run: Run, client: Client) -> Mapping[int, int]:
    """Return by how many steps ranks are behind the farthest one, as they report by `muster.progress`."""
    looks = []
    for _ in range(2):
        found = {rank.rank: rank.progress for rank in usage.of(run, client).ranks if rank.progress is not None}
        looks.append((time.monotonic(), found, max((each.step for each in found.values()), default=0)))
    (began, _, before), (now, found, farthest) = looks
    return behind(found, max(0, farthest - before) / max(now - began, 0.001))


def pace_of(run: Run, times: Times) -> Pace:
    """Return the pace of a run's ranks from the times of their collectives."""
    plan = run.plan
    node_of = {rank.rank: node.number for node in plan.nodes for rank in node.ranks} if plan is not None else {}
    return find_slow(times.times, node_of, clocks_of(times.clock_offsets))
