"""A run that does not depend on the process that started it, as seen by any process of the user."""

from __future__ import annotations

from muster.client.client import Client, ask
from muster.client.follow import Follower, wait
from muster.client.reconcile import cancel, reconcile
from muster.core.controller_config import RECORD
from muster.core.results import SIGTERM, RunResult, RunState
from muster.runner.handle import RunHandle


class DetachedRun(RunHandle):
    """A run that continues without this process: its controller is on a node, or it waits in a scheduler's queue."""

    detached = True

    def _drive(self) -> None:
        return None

    def stop(self, number: int = SIGTERM) -> None:
        """Stop the run gracefully, as `muster kill` does. Raises `Unreachable`, `ControlError`."""
        if self._waits_in_queue():
            cancel(self.run)
        else:
            ask(self.run, "kill", by="")

    def _waits_in_queue(self) -> bool:
        """Return whether there is no controller yet."""
        scheduled = self.run.scheduled
        if scheduled is None or scheduled.allocated or self.run.read(RECORD) is not None:
            return False
        return reconcile(self.run).state in (RunState.PENDING, RunState.RUNNING)

    def wait(self, timeout: float | None = None) -> RunResult | None:
        """Poll for the result for at most `timeout` seconds, and return it; None if it is not known by then."""
        with Client(self.run) as client:
            self.outcome = wait(Follower(self.run, client), timeout).status.outcome
        return self.outcome
