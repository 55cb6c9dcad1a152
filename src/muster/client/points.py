"""The points of a sweep for users: what is shown of each, and cancelling those that wait in a queue."""

from __future__ import annotations

import time
from collections.abc import Sequence

from muster.client.reconcile import cancel
from muster.client.sweeps import PointStatus
from muster.core.results import RunResult, RunState, StopKind, StopReason
from muster.core.sweep import array_of
from muster.rundir.metrics import metrics_of
from muster.schedulers.client import client
from muster.ui.sweep_text import PointRow
from muster.ui.text import outcome_as_json


def row_of(one: PointStatus, metrics: bool = True) -> PointRow:
    """Return what is shown of a point."""
    status, run = one.status, one.run
    if run is None:
        state = str(RunState.PENDING) if status.state.lives else "not started"
        return PointRow(one.point, state)
    job = run.job
    took = status.outcome.duration if status.outcome is not None else None
    if status.state is RunState.RUNNING and run.attempts():
        took = max(0.0, time.time() - (run.path / f"attempt_{run.attempts()[0]}").stat().st_mtime)
    number = str((job.get("scheduler") or {}).get("job", ""))
    numbers = metrics_of(run) if metrics else {}
    return PointRow(one.point, str(status.state), one.code, took, number, run.id, numbers)


def cancel_pending(points: Sequence[PointStatus], by: str) -> None:
    """Cancel the points that wait in a queue, all of an array at once, and record that."""
    waiting: dict[str, list[PointStatus]] = {}
    for one in points:
        if one.run is not None and one.status.state is RunState.PENDING and one.run.scheduled is not None:
            waiting.setdefault(one.run.scheduled.job.rpartition("_")[0], []).append(one)
    for number, several in waiting.items():
        first = several[0].run
        assert first is not None and first.scheduled is not None
        asks = client(first.scheduled.name)
        if not number or asks.scheduler.arrays is None:
            for one in several:
                assert one.run is not None
                cancel(one.run)
        else:
            asks.cancel(asks.scheduler.arrays.task(number, array_of([one.point.number for one in several], None)))
        # the scheduler forgets tasks that never started at once
        why = StopReason(StopKind.OTHER, message=f"it was cancelled by {by}")
        for one in several:
            if one.run is not None and one.run.outcome is None:
                one.run.write_outcome(outcome_as_json(RunResult(RunState.KILLED, 137, 0.0, 0, why)))
