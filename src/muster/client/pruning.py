"""Deleting old runs. Runs that are alive, or whose state is unknown, are never touched."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress

from muster.client.local import answers, is_anothers
from muster.client.reconcile import require_known, statuses
from muster.client.remote import forget_way
from muster.core.plurals import plural
from muster.core.results import RunState
from muster.errors import InvalidRequest
from muster.rundir.finding import list_runs
from muster.rundir.run import Run
from muster.rundir.store import Store, remove_run
from muster.rundir.sweeps import every_run, folded, is_sweep, mark_deleted
from muster.ui.formatting import size_in_words

_LIVING = (RunState.RUNNING, RunState.PENDING, RunState.UNKNOWN)
"""States of runs whose files are still needed."""
_WITHIN = 4.0
"""Seconds for machines and schedulers to answer while a run waits to start."""
_BEGINS = 600.0
"""Seconds for which an unresponsive run may be one that is just starting."""


def ended(found: Sequence[Run], within: float) -> list[Run]:
    """Return the runs that have ended. All are asked at the same time, for at most `within` seconds."""
    seen = zip(found, statuses(found, within))
    return [run for run, status in seen if status.state not in (*_LIVING, RunState.UNREADABLE)]


def refuse_living(found: Sequence[Run], within: float, force: bool = False) -> None:
    """Raise `InvalidRequest` or `Unreachable` for the first run that may be alive.

    A damaged run has ended if nothing answers for it on this machine. `force`: accept runs whose state is unknown.
    """
    for run, status in zip(found, statuses(found, within)):
        if force and status.state is RunState.UNKNOWN:
            continue
        require_known(run, status, f"or delete what is here with `muster rm --force {run.operand}`")
        state = status.state
        if state is RunState.UNREADABLE and answers(run):
            state = RunState.RUNNING
        if state in _LIVING:
            raise InvalidRequest(
                f"cannot delete {run.id}: it is {state}", f"terminate it with `muster kill {run.operand}`"
            )


def beyond(sizes: Sequence[int], keep_runs: int | None, keep_size: int | None) -> int:
    """Return how many of the oldest runs exceed the limits, given that one more is about to be created.

    `sizes` are the bytes of the runs, oldest first.
    """
    kept = total = 0
    for size in reversed(sizes):
        total += size
        if (keep_runs is not None and kept + 1 >= keep_runs) or (keep_size is not None and total > keep_size):
            break
        kept += 1
    return len(sizes) - kept


def limit(store: Store, keep_runs: int | None, keep_size: int | None) -> str:
    """Delete this user's finished runs that exceed the limits; return a message about it."""
    own = folded([run for run in list_runs(store.here) if not is_anothers(run)])
    sizes = [_size(run) if keep_size is not None else 0 for run in own]
    old = [run for run in ended(own[: beyond(sizes, keep_runs, keep_size)], _WITHIN) if not _may_begin(run)]
    if not old:
        return ""
    freed = sum(map(_size, old))
    for run in old:
        delete(store, run)
    which = old[0].id if len(old) == 1 else f"{old[0].id} to {old[-1].id}"
    return f"deleted {plural(len(old), 'old run')} ({size_in_words(freed)}; --keep-runs, --keep-size): {which}"


def _may_begin(run: Run) -> bool:
    """Return whether it may have no outcome because it is just starting: nothing answers for it yet."""
    return run.outcome is None and time.time() - run.job.get("time", 0.0) < _BEGINS


def _size(run: Run) -> int:
    """Return the disk usage of a run in bytes."""
    found = 0
    for folder, _, files in os.walk(run.path):
        for name in files:
            with suppress(OSError):  # it is alive, and its files change
                found += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return found


def delete(store: Store, run: Run) -> None:
    """Delete a run, and what is stored about it elsewhere; with a sweep, the runs of its points."""
    points = every_run(run) if is_sweep(run) else []
    if points:
        with suppress(OSError):  # the directory cannot be written, and nothing in it is deleted
            mark_deleted(run)
    for point in points:
        forget_way(point)
        remove_run(store, point)
    forget_way(run)
    remove_run(store, run)
