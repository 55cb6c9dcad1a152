"""A run that goes on without the process that has started it, as any process of this user sees it."""

from __future__ import annotations

from muster.client.client import Client, ask
from muster.client.follow import Follower, wait
from muster.client.reconcile import cancel, reconcile
from muster.core.controller_config import RECORD
from muster.core.results import SIGTERM, RunResult, RunState
from muster.runner.handle import RunHandle


class DetachedRun(RunHandle):
    """A run that goes on without this process: its supervisor is on a node, or it waits in the queue of a scheduler."""

    detached = True

    def _drive(self) -> None:
        return None

    def stop(self, number: int = SIGTERM) -> None:
        """End the run in order, as `muster kill` does. Raises `Unreachable`, `ControlError`."""
        if self._waits_in_queue():
            cancel(self.run)
        else:
            ask(self.run, "kill", by="")

    def _waits_in_queue(self) -> bool:
        """There is no supervisor yet that could be asked."""
        scheduled = self.run.scheduled
        if scheduled is None or scheduled.allocated or self.run.read(RECORD) is not None:
            return False
        return reconcile(self.run).state in (RunState.PENDING, RunState.RUNNING)

    def wait(self, timeout: float | None = None) -> RunResult | None:
        """Ask for how it ended until that is known, for at most `timeout` seconds; None where it is not known then."""
        with Client(self.run) as client:
            self.outcome = wait(Follower(self.run, client), timeout).status.outcome
        return self.outcome
