"""The end of a scheduler's job while its ranks run: when they are warned, and when they are terminated."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from muster.controller.controller import Controller
from muster.controller.job_time import BatchJob
from muster.core.events import JobEnding, PreemptionWarned
from muster.core.results import SIGTERM
from muster.linux.signals import CapturedSignals
from muster.ui.reason_text import JOB_ENDS

_LOOK = 0.1
"""Seconds between checks why a scheduler ends the job."""
_WHY_WITHIN = 2.0
"""Seconds for that reason to be known; then the job counts as cancelled."""
_ANSWERS_WITHIN = 1 / 3
"""The part of the time until the scheduler kills the rest for which its answer is awaited: a busy one needs seconds."""
_MARGIN = 2.0
"""Seconds that this process needs before a scheduler kills the rest of the job."""


class JobEnd:
    """Decides when the ranks are warned of the end of the job."""

    def __init__(self, controller: Controller, batch: BatchJob) -> None:
        self.controller, self.batch = controller, batch
        self.warned = self.ending = False
        """`warned`: ranks with a handler were warned of the end of the job. `ending`: the job is being terminated."""
        self.cause = ""
        """The reason, one of `JOB_ENDS`."""
        self._killed_at = 0.0
        """When the scheduler kills the rest."""
        self._nodes_without_handler: set[int] = set()
        """Nodes on which no rank handles the warning signal."""

    def start(self, signals: CapturedSignals) -> None:
        """Handle the scheduler's signals to this process, and watch for the time limit."""
        batch = self.batch
        stops = {SIGTERM, signal.Signals[f"SIG{batch.stop}"]}

        def signalled(came: list[int]) -> None:
            numbers = set(came) - {signal.SIGCHLD}
            if stops & numbers:
                self.terminated()
            if batch.warning and (warning := signal.Signals[f"SIG{batch.warning}"]) in numbers:
                numbers.discard(warning)
                self._scheduler_warns()
            for number in sorted(numbers - stops):
                self.controller.broadcast("forward_signal", number=number)

        signals.handle(signalled)
        if batch.before and (batch.chosen or batch.warning):
            self._near_the_end()

    def _near_the_end(self, asked: bool = False) -> None:
        """Warn the ranks at the right time before the time limit.

        A scheduler checks its clock only occasionally, some every 30 s: its own signal is early for a long job, late
        for a short one.
        """
        if not asked:
            self.batch.ask()
        if not self.batch.answered:
            self.controller.loop.call_later(_LOOK, lambda: self._near_the_end(asked=True))
            return
        left, before = self.batch.time_left(), self.batch.warn_before()
        if left is None:
            return  # the scheduler's own signal is still to come, if it sends one
        if left > before + _LOOK:
            self.controller.loop.call_later(left - before, self._near_the_end)
            return
        self.warn_preemption("time limit", f"{max(0.0, left):.0f}s left before the time limit")

    def _scheduler_warns(self, asked: bool = False) -> None:
        """Handle the scheduler's warning: the time limit may have been changed since it was checked."""
        if not asked:
            self.batch.ask()
        if not self.batch.answered:
            self.controller.loop.call_later(_LOOK, lambda: self._scheduler_warns(asked=True))
        elif self.batch.time_left() is not None:
            self._near_the_end(asked=True)
        else:
            self.warn_preemption("time limit", f"{self.batch.before:g}s left before the time limit")

    def warn_preemption(self, cause: str, why: str) -> None:
        """Send the warning signal to the ranks that handle it. Other ranks are left alone."""
        if self.warned or self.controller.outcome is not None or not self.batch.before:
            return
        self.warned, self.cause, self._nodes_without_handler = True, cause, set()
        text = f"{why}: sending SIG{self.batch.signal} to ranks that handle it, to save a checkpoint"
        self.controller.notify(text)
        self.controller.broadcast("warn_preemption", name=self.batch.signal, cause=cause, text=text)

    def terminated(self) -> None:
        """Handle the signal that announces the end of the job, which arrived here or at an agent: find out why."""
        if self.ending or self.controller.outcome is not None:
            return
        self.ending, self._killed_at = True, self.controller.now() + self.batch.kill_wait
        self.batch.ask()
        self._why(self.controller.now())

    def _why(self, since: float) -> None:
        cause, waited = self.batch.why(), self.controller.now() - since
        answers = not self.batch.answered and waited < self.batch.kill_wait * _ANSWERS_WITHIN
        if not cause and (answers or waited < _WHY_WITHIN):
            self.controller.loop.call_later(_LOOK, lambda: self._why(since))
            return
        grace = self.batch.grace_left()
        if cause == "preempted" and grace is not None:
            self.ending = False  # only the steps were signalled; another SIGTERM follows when the grace time is over
            self.warn_preemption(cause, f"{self.batch.title} preempts this job in {grace:.0f}s")
            return
        saves = cause in ("preempted", "requeued", "node failure") and not self.warned
        self.cause = cause or "cancelled"
        patience = self._killed_at - self.controller.now() - _MARGIN
        own = min(self.controller.plan.job.grace, self.batch.kill_wait / 2) - _MARGIN
        if saves and patience > own:
            self.warn_preemption(self.cause, f"{self.batch.title} terminates this job: {JOB_ENDS[self.cause]}")
        if saves and self.warned:
            self.controller.loop.call_later(max(0.0, patience - own), self._end_ranks)
        else:
            self._end_ranks()

    def heard_of(self, node: int, ranks: Sequence[int], t: float) -> None:
        """Record the ranks of a node that handle the warning; stop waiting if no rank does and the job is ending."""
        if ranks:
            self.controller.handle(PreemptionWarned(t, self.cause, tuple(ranks)))
        else:
            self._nodes_without_handler.add(node)
        if self.ending and len(self._nodes_without_handler) == len(self.controller.links):
            self._end_ranks()

    def _end_ranks(self) -> None:
        if self.controller.outcome is None:
            within = max(_MARGIN / 2, self._killed_at - self.controller.now() - _MARGIN)
            self.controller.job_ends(JobEnding(self.controller.now(), self.cause, round(within, 1)))
