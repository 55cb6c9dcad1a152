"""A run that is started later by this process: after other runs, or as a point of a sweep."""

from __future__ import annotations

import threading
import time

from muster.core.results import SIGTERM, RunResult, RunState
from muster.errors import ControlError
from muster.rundir.run import Run
from muster.runner.handle import RunHandle
from muster.ui.view import View


class LaterRun(RunHandle):
    """A run that has no directory until it is started.

    Whoever starts it calls `claim`, then `begun`, or `given_up` if it will never start.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._decided, self._lock, self._claimed = threading.Event(), threading.Lock(), False
        self._started: RunHandle | None = None
        self._stopped_by = 0
        self.early_state = RunState.PENDING

    @property
    def over(self) -> bool:
        """Whether it has ended, or will never start."""
        return self._decided.is_set() and (self._started is None or self._started.over)

    def claim(self) -> bool:
        """Return whether to start it now: False if it was stopped before."""
        with self._lock:
            self._claimed = not self._decided.is_set()
        return self._claimed

    def begun(self, handle: RunHandle) -> None:
        """Record that the run is started."""
        with self._lock:
            self._started, self.detached, self.early_state = handle, handle.detached, None
            self._decided.set()
            stopped_by = self._stopped_by
        if stopped_by:  # while it was being started
            handle.stop(stopped_by)

    def given_up(self, error: BaseException | None = None) -> None:
        """Record that the run will not be started, or why that has failed."""
        if not self._decided.is_set():
            self._error = error or ControlError(f"{self.id} was not started", None)
            self.early_state = RunState.KILLED
            self._over.set()
            self._decided.set()

    def stop(self, number: int = SIGTERM) -> None:
        """Stop the run, or do not start it."""
        with self._lock:
            self._stopped_by = number
            if not self._claimed:
                self.given_up()
            started = self._started  # if it is set later, `begun` stops it: a second signal would hurry it
        if started is not None:
            started.stop(number)

    def wait(self, timeout: float | None = None) -> RunResult | None:
        """Wait at most `timeout` seconds (None: no limit) and return the result; None if it is not known yet.

        Raises `ControlError` if it was not started.
        """
        until = None if timeout is None else time.monotonic() + timeout
        if not self._decided.wait(timeout):
            return None
        if self._started is None:
            return super().wait(0)
        self.outcome = self._started.wait(None if until is None else max(0.0, until - time.monotonic()))
        return self.outcome

    def watch(self, view: View) -> None:
        """Show `view` everything from now on. Raises `ControlError` before the run is started."""
        if self._started is None:
            raise ControlError(f"{self.id} has not been started", None)
        self._started.watch(view)
