"""What became of a run, or what it does now: decided from what is told, and nothing is written. See `reconcile.py`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from muster.core.controller_config import RECORD
from muster.core.results import RunResult, RunState, StopKind, StopReason
from muster.rundir.job_record import Scheduled
from muster.rundir.run import Run, Unreadable
from muster.schedulers import get_scheduler
from muster.schedulers.scheduler import JobEnd, Phase


class RunStatus(NamedTuple):
    """The state of a run at one moment."""

    state: RunState
    why: str = ""
    """What is behind `lost`, `unknown` and `unreadable`, for a person."""
    outcome: RunResult | None = None
    """How it ended, where it has; that of an attempt that is made again is none."""
    heard: bool = False
    """Another machine, or a scheduler, has told just now that it runs."""
    met_limit: bool = False
    """It was lost where this user could have no more processes."""
    elsewhere: bool = False
    """It has ended on another machine, whose files may say how."""


class Controller(NamedTuple):
    """What is heard of the controller of a run that is on another machine, or detached."""

    lives: bool
    silent: str = ""
    """Why nothing was heard; then it may live or not."""


class Sight(Protocol):
    """What can be asked about a run. Each may take time, and is asked only where it matters."""

    @property
    def anothers(self) -> bool:
        """It is another user's, and this is root."""

    @property
    def machine(self) -> Mapping[str, str]:
        """`host` and `boot` of this machine."""

    def now(self) -> float:
        """Seconds since 1970."""

    def queued(self) -> str | None:
        """The state of its job in the queue; empty where it is not there any more, None where nobody answers."""

    def past(self) -> str:
        """The state with which its job ended; empty where nobody knows."""

    def cancelled_by(self) -> str:
        """Who cancelled its job; empty where nobody knows."""

    def controller(self) -> Controller:
        """What is heard of its controller."""

    def listens(self) -> bool:
        """Its agent or its controller is on this machine."""

    def starter_lives(self) -> bool:
        """The process that started it lives on this machine, and will still take note of its end."""


def status(run: Run, sight: Sight) -> RunStatus:
    """What became of a run, or what it does now. No answer is never an end. Raises `Unreadable`."""
    if sight.anothers:
        return _of_another_user(run, sight)
    job, outcome = run.job, run.outcome
    if outcome is not None and not _comes_again(run, outcome, sight):
        return RunStatus(outcome.state, outcome=outcome)
    scheduled = run.scheduled
    if scheduled is not None and (not scheduled.allocated or run.read(RECORD) is None):
        return _in_queue(run, scheduled, sight)  # asked once for all runs, and no step of its own is needed
    if job.get("served"):
        return _served(run, sight)
    if job.get("host") != sight.machine["host"]:
        return RunStatus(RunState.UNKNOWN, f"it was started on {job.get('host')}; ask there")
    if job.get("boot") != sight.machine["boot"]:
        return RunStatus(RunState.LOST, "the machine was restarted while it ran")
    if sight.listens() or sight.starter_lives():
        return RunStatus(RunState.RUNNING)
    return _ended(run)  # perhaps since it was looked at


def _comes_again(run: Run, outcome: RunResult, sight: Sight) -> bool:
    """This was the end of an attempt only: the job is in the queue again, or will be in a moment."""
    scheduled = run.scheduled
    if scheduled is None or not scheduled.requeue or outcome.code == 0:
        return False
    state = sight.queued()
    return state is None or _goes_on(get_scheduler(scheduled.name).phase(state))


def _goes_on(phase: Phase) -> bool:
    return phase is Phase.PENDING or phase.lives


def _of_another_user(run: Run, sight: Sight) -> RunStatus:
    """As far as this machine knows by itself."""
    if sight.listens():
        return RunStatus(RunState.RUNNING)
    job, outcome, machine = run.job, run.outcome, sight.machine
    scheduled = run.scheduled
    if outcome is not None and (scheduled is None or not scheduled.requeue):
        return RunStatus(outcome.state, outcome=outcome)
    if scheduled is not None or job.get("host") != machine["host"]:
        return RunStatus(RunState.UNKNOWN, "it is another user's, and this machine does not know; ask as that user")
    if job.get("boot") == machine["boot"] and sight.starter_lives():
        return RunStatus(RunState.RUNNING)
    return _ended(run)


def _in_queue(run: Run, scheduled: Scheduled, sight: Sight) -> RunStatus:
    """Of which only its scheduler knows something."""
    of, state = get_scheduler(scheduled.name), sight.queued()
    if state is None:
        return RunStatus(RunState.UNKNOWN, f"{of.title} does not answer")
    phase = of.phase(state)
    if phase is Phase.PENDING:
        return RunStatus(RunState.PENDING)
    if phase.lives:
        return RunStatus(RunState.RUNNING, heard=True)
    os.listdir(run.path)  # over NFS this brings what was written on a node meanwhile
    outcome = run.outcome
    state = state or ("" if outcome is not None else sight.past())
    if outcome is None and state in of.ends:
        outcome = _end_in_queue(run, of.ends[state], state, sight)
    if outcome is None:
        return RunStatus(RunState.LOST, f"{of.title} knows its job {scheduled.job} no more")
    return RunStatus(outcome.state, outcome=outcome)


def _end_in_queue(run: Run, end: JobEnd, state: str, sight: Sight) -> RunResult:
    """An end that the scheduler alone saw, whose word for it is `state`."""
    attempts = run.attempts()
    took = max(0.0, sight.now() - float(run.job["time"])) if attempts else 0.0  # it may never have started
    how = end.words
    if end.failed and run.read(RECORD) is not None:
        how = f"the controller of the run on {run.job['host']} was killed"
    elif end.cancelled and (who := sight.cancelled_by()):
        how = f"it was cancelled by {who}"
    reason = StopReason(StopKind.OTHER, message=f"{how} ({state})")
    return RunResult(end.state, end.code, took, max(attempts, default=0), reason)


def _served(run: Run, sight: Sight) -> RunStatus:
    """Of which its controller knows all."""
    found = sight.controller()
    if found.silent:
        words = f"{run.job['served']['name']}, where its supervisor is, does not answer"
        return RunStatus(RunState.UNKNOWN, f"{words}: {found.silent}")
    if found.lives:
        return RunStatus(RunState.RUNNING, heard=True)
    return _ended(run)._replace(elsewhere=True)


def _ended(run: Run) -> RunStatus:
    outcome = run.outcome
    return _lost(run) if outcome is None else RunStatus(outcome.state, outcome=outcome)


def _lost(run: Run) -> RunStatus:
    for path in run.path.glob("node_*/ended.json"):
        try:
            ended = run.read(str(path.relative_to(run.path))) or {}
        except Unreadable:  # the agent may have been killed while it wrote
            continue
        if isinstance(ended.get("why"), str):
            why = f"{ended['why']}, and its agent ended the ranks"
            return RunStatus(RunState.LOST, why, met_limit=ended.get("limit") is True)
    return RunStatus(RunState.LOST, "muster and its agent were killed, or the disk was full")
