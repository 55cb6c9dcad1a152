"""`--after RUN`: what a run waits for, and waiting for it where no scheduler does that."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from muster.client.reconcile import lives, reconcile
from muster.config.options import RunOptions
from muster.core.results import RunState
from muster.errors import ControlError, InvalidRequest
from muster.rundir.finding import find_run
from muster.rundir.run import Run
from muster.rundir.store import Store
from muster.rundir.sweeps import is_sweep, runs_by_point, sweep_of
from muster.runner.context import RunContext
from muster.schedulers import title
from muster.schedulers.client import client
from muster.schedulers.scheduler import After

_CONDITIONS = ("ok", "any", "failed")
_LOOK = 1.0
"""Seconds between looks at a run."""


class Awaited(NamedTuple):
    """A run that has to end first."""

    run: Run
    how: str
    """One of `_CONDITIONS`."""


def awaited(options: RunOptions, store: Store) -> list[Awaited]:
    """Return the runs that `--after` names and that have not ended yet. Raises `InvalidRequest`, `ControlError`."""
    found = []
    for text in options.after:
        which, colon, how = text.rpartition(":")
        if not colon or how not in _CONDITIONS:
            which, how = text, "ok"
        if ":" in which:
            raise InvalidRequest(
                f"--after {text}: unknown condition: {which.rpartition(':')[2] if colon else how}",
                f"write RUN, or RUN:CONDITION with {', '.join(_CONDITIONS[:-1])} or {_CONDITIONS[-1]}",
            )
        run = find_run(store, which, lives)
        if is_sweep(run) and sweep_of(run).chain and (parts := list(runs_by_point(run).values())):
            run = parts[-1] if len(parts) == len(sweep_of(run).points) else run
        one = Awaited(run, how)
        if not _met(one):
            found.append(one)
    return found


def dependencies(waits: Sequence[Awaited], scheduler: str) -> tuple[list[Awaited], tuple[After, ...]]:
    """Return the runs that muster has to wait for, and the jobs that the scheduler of a new job waits for."""
    ours, jobs = [], []
    for one in waits:
        job = one.run.scheduled
        if scheduler and client(scheduler).scheduler.waits and job is not None and job.name == scheduler:
            if job.allocated:
                ours.append(one)  # the job goes on after the run
            else:
                jobs.append(After(job.job, one.how))
        else:
            ours.append(one)
    return ours, tuple(jobs)


def after_others(context: RunContext, detached: bool) -> tuple[RunContext, list[Awaited]]:
    """Return the context of a run that starts after those of `--after`, and the runs that are still to be awaited.

    They are awaited here, unless the run is `detached`: then a process in the background does that. Jobs of the run's
    own scheduler are left to it. Raises `InvalidRequest`, `ControlError`.
    """
    job, options = context.asked.job, context.options
    in_queue = bool(job.scheduler) and options.on is None
    queued = in_queue and client(job.scheduler).allocation(context.env, context.store.root) is None
    ours, jobs = dependencies(awaited(options, context.store), job.scheduler if queued else "")
    context = context._replace(after=jobs)
    if ours and not detached:
        if options.detach and job.scheduler:
            raise InvalidRequest(
                f"--after {ours[0].run.id} cannot be combined with -d: it is no job of {title(job.scheduler)}",
                "leave out -d: muster waits, and then submits",
            )
        wait_for(ours, context.progress)
        ours, context = [], context._replace(began=time.monotonic())
    return context, ours


def _met(one: Awaited) -> bool:
    """Return whether a run has ended as required. Raises `ControlError` if it has ended differently."""
    state = reconcile(one.run).state
    if state.lives or state is RunState.UNKNOWN:
        return False
    succeeded = state is RunState.SUCCEEDED
    if (one.how == "ok" and not succeeded) or (one.how == "failed" and succeeded):
        raise ControlError(
            f"--after {one.run.id}:{one.how}: that run has {'succeeded' if succeeded else f'ended: {state}'}",
            f"start anyway with `--after {one.run.id}:any`, or without --after",
        )
    return True


def wait_for(waits: Sequence[Awaited], say: Callable[[str], object], signalled: Callable[[], int] = lambda: 0) -> bool:
    """Wait until these runs have ended as required; return False after a signal. Raises `ControlError`."""
    for one in waits:
        say(f"waiting for {one.run.id}" + {"ok": " to succeed", "any": "", "failed": " to fail"}[one.how])
        while not _met(one):
            if signalled():
                return False
            time.sleep(_LOOK)
    return True
