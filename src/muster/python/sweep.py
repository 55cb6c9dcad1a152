"""A sweep or chain for a Python program: its points, which are runs, and what they have in common."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from muster.client.points import cancel_pending, row_of
from muster.client.reconcile import lives, point_statuses
from muster.client.sweeps import PointStatus, counts
from muster.core.results import RunState
from muster.core.sweep import Ids, counts_in_words, goes_on
from muster.core.sweep import Point as SweepPoint
from muster.errors import InvalidRequest, MusterError
from muster.python.entry import entry
from muster.python.run import Run
from muster.rundir.finding import find_run
from muster.rundir.metrics import metrics_of
from muster.rundir.run import Run as RunDir
from muster.rundir.store import store_at
from muster.rundir.sweeps import STOP, is_sweep, runs_by_point, sweep_of
from muster.runner.detached import DetachedRun
from muster.runner.handle import RunHandle
from muster.runner.later import LaterRun
from muster.ui.sweep_text import points_in_words

T = TypeVar("T")

_AT_ONCE = 16
"""Points that are ended at the same time."""


class Point(Run[T]):
    """One run of a sweep, or one part of a chain."""

    def __init__(self, handle: RunHandle, number: int, values: Mapping[str, Any]) -> None:
        super().__init__(handle)
        self.number = number
        """The number of the point, counted from 0."""
        self.values = dict(values)
        """The value of each parameter."""

    def __repr__(self) -> str:
        label = "".join(f" {name}={value!r}" for name, value in self.values.items())
        return f"<muster.Point {self.number}{label} {self.id}>"

    def ended(self, timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds (None: no limit) for the end; return whether it has ended, or never starts."""
        try:
            return self.wait(timeout) is not None or self.done()
        except MusterError:  # it was not started, or has no result
            return self.done()

    def stop(self) -> None:
        """Ask the run to end, or do not start it; return at once."""
        self._handle.stop()

    def metrics(self) -> dict[str, float]:
        """Return the last value of each metric that the run has printed so far."""
        return {} if self._handle.early_state is not None else _numbers(metrics_of(self._run))


class Sweep(Generic[T]):
    """The runs that `muster.submit` started with `sweep=`, `array=` or `chain=`: a sequence of `Point`.

    A sweep on this machine or on hosts is run by this program, and ends with it. Jobs of a scheduler go on.
    """

    def __init__(self, run: RunDir, points: Sequence[Point[T]]) -> None:
        self._run, self.points = run, tuple(points)
        """The points, in order."""

    def __repr__(self) -> str:
        return f"<muster.Sweep {self.id}: {counts_in_words(counts(self._statuses()))}>"

    def __str__(self) -> str:
        """The table of the points, as `muster show` prints it."""
        return points_in_words([row_of(one) for one in self._statuses()], "PART" if self._chain else "POINT")

    def __iter__(self) -> Iterator[Point[T]]:
        return iter(self.points)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, number: int) -> Point[T]:
        """Return a point by its number."""
        for point in self.points:
            if point.number == number:
                return point
        raise IndexError(f"{self.id} has no point {number}")

    @property
    def id(self) -> str:
        """The id of the sweep, which all muster commands accept."""
        return self._run.id

    @property
    def path(self) -> str:
        """The directory of the sweep; each point has a run directory of its own beside it."""
        return str(self._run.path)

    @property
    def survives(self) -> bool:
        """Whether the points continue when this program ends: jobs of a scheduler do."""
        return any(point.survives for point in self.points)

    @property
    def _chain(self) -> bool:
        return sweep_of(self._run).chain

    def _statuses(self) -> list[PointStatus]:
        return point_statuses(self._run)

    def status(self) -> RunState:
        """Return the state: `running` while a point runs, otherwise that of the first point that did not succeed."""
        states = [point.status() for point in self.points]
        if RunState.RUNNING in states or (RunState.PENDING in states and any(state.ended for state in states)):
            return RunState.RUNNING
        for state in (RunState.PENDING, RunState.UNKNOWN):
            if state in states:
                return state
        chain = self._chain
        failed = [state for state in states if state is not RunState.SUCCEEDED and not (chain and goes_on(state))]
        return failed[0] if failed else states[-1]

    def counts(self) -> dict[str, int]:
        """Return how many points are in which state, such as `{"ok": 5, "failed": 1, "running": 2}`."""
        return counts(self._statuses())

    def done(self) -> bool:
        """Return whether all points have ended."""
        return all(point.done() for point in self.points)

    @entry
    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds (None: no limit) for all points; return whether all have ended."""
        until = None if timeout is None else time.monotonic() + timeout
        return all(point.ended(None if until is None else max(0.0, until - time.monotonic())) for point in self.points)

    @entry
    def results(self, timeout: float | None = None) -> list[list[T]]:
        """Wait for all points, and return for each what the function returned on each rank; None for ranks of a script.

        Raises what `Run.results` raises for the first point that failed, once all points have ended.
        """
        if not self.wait(timeout):
            raise TimeoutError(f"{self.id} has not ended: {counts_in_words(self.counts())}")
        return [point.results() for point in self.points]

    @entry
    def result(self, timeout: float | None = None) -> list[T]:
        """Wait for all points, and return what the function returned on rank 0 of each. Raises like `results`."""
        return [found[0] for found in self.results(timeout)]

    def exceptions(self, timeout: float | None = None) -> list[BaseException | None]:
        """Wait for all points, and return for each what `results` would raise; None if it succeeded."""
        if not self.wait(timeout):
            raise TimeoutError(f"{self.id} has not ended: {counts_in_words(self.counts())}")
        return [point.exception() for point in self.points]

    def table(self) -> list[dict[str, Any]]:
        """Return a row for each point: number, values, state, exit code, seconds, and the last value of each metric.

        `pandas.DataFrame(sweep.table())` makes it a data frame.
        """
        rows = [row_of(one) for one in self._statuses()]
        found: list[dict[str, Any]] = []
        for point, row in zip(self.points, rows):
            state = RunState(row.state) if row.run else point.status()
            how = {"state": state, "code": row.code, "seconds": row.seconds}
            found.append({"point": point.number, **point.values, **how, **_numbers(row.metrics)})
        return found

    @entry
    def kill(self) -> None:
        """Start no more points, terminate those that run, and wait until all have ended."""
        (self._run.path / STOP).touch()
        cancel_pending(self._statuses(), "this user")
        for point in self.points:
            if not point.survives:
                point.stop()
        with ThreadPoolExecutor(min(_AT_ONCE, len(self.points))) as pool:
            for killed in [pool.submit(point.kill) for point in self.points]:
                killed.result()

    def end_with(self, error: BaseException) -> None:
        """End all points because this exception leaves the caller."""
        self.kill()

    @staticmethod
    @entry
    def attach(which: str = "last", *, run_dir: str | None = None) -> Sweep[Any]:
        """Return an existing sweep or chain by its id, its name, a prefix of its id, or `last`.

        `run_dir`: the directory that contains all runs, if it is not MUSTER_HOME or ~/.muster.

        Raises `muster.errors.InvalidRequest` if there is none.
        """
        import os

        run = find_run(store_at(run_dir, dict(os.environ)), which, lives)
        if not is_sweep(run):
            raise InvalidRequest(f"{run.id} is a single run", f'muster.attach("{run.id}")')
        runs = runs_by_point(run)
        found = [Point[Any](_handle(run, runs.get(one.number), one.number), *_of(one)) for one in sweep_of(run).points]
        return Sweep(run, found)


def _handle(sweep: RunDir, run: RunDir | None, number: int) -> RunHandle:
    if run is not None:
        return DetachedRun(run)
    never = LaterRun(RunDir(sweep.path.parent / Ids(sweep.id, number).run))
    never.given_up()
    return never


def _of(point: SweepPoint) -> tuple[int, Mapping[str, Any]]:
    return point.number, dict(point.values)


def _numbers(metrics: Mapping[str, str]) -> dict[str, float]:
    return {name: float(text) for name, text in metrics.items()}
