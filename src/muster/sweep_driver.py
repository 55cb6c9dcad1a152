"""Runs the points of a sweep, or the parts of a chain, from this process: some at a time, on this machine or hosts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress

from muster import api
from muster.core.sweep import goes_on
from muster.errors import MusterError
from muster.rundir.run import Run
from muster.rundir.sweeps import STOP
from muster.runner.handle import RunHandle
from muster.runner.later import LaterRun
from muster.runner.sweeps import SweepContext

_TICK = 0.1
"""Seconds between looks at the points that run."""


def drive(
    context: SweepContext,
    run: Run,
    begin: Callable[[int], object],
    end: Callable[[int], object],
    signalled: Callable[[], int],
    handles: Mapping[int, LaterRun] | None = None,
) -> None:
    """Start the points in order, at most `Sweep.most` (default: 1) at the same time, and wait for all.

    `begin` and `end` are called with the number of each point. `signalled` returns a signal that this process got, or
    0: then the points that run get it, and no other one is started. The same holds once the file `STOP` exists, but
    whoever has written that ends the points that run. `handles` are told which points are started; one that is stopped
    is not.
    """
    waiting = deque(context.points)
    running: dict[int, RunHandle] = {}
    stopped_by = 0

    def halt() -> None:
        """Start no more points."""
        waiting.clear()
        with suppress(OSError):  # the disk is full: other commands take the points that are left for pending ones
            (run.path / STOP).touch()

    while waiting or running:
        number = signalled()
        if number and number != stopped_by:
            stopped_by = number
            for handle in running.values():
                handle.stop(number)
            halt()
        if waiting and (run.path / STOP).exists():
            waiting.clear()
        while waiting and len(running) < (context.sweep.most or 1) and not (run.path / STOP).exists():
            point = waiting.popleft()
            later = handles[point] if handles is not None else LaterRun(run)
            if not later.claim():
                continue
            begin(point)
            try:
                running[point] = api.start(context.points[point]._replace(began=time.monotonic()))
                later.begun(running[point])
            except MusterError as error:
                later.given_up(error)
                context.base.warn(f"error: {error}")
                end(point)
                if context.sweep.chain:
                    halt()
        for point in [point for point, handle in running.items() if handle.over]:
            handle = running.pop(point)
            end(point)
            if context.sweep.chain and not _goes_on(handle):
                halt()
        if running:
            time.sleep(_TICK)


def _goes_on(handle: RunHandle) -> bool:
    try:
        outcome = handle.wait(0)
    except MusterError:
        return False
    return outcome is not None and goes_on(outcome.state)
