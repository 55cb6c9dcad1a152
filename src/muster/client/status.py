"""The status of a run, decided from the answers to questions; writes nothing. See `reconcile.py`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from muster.core.controller_config import RECORD
from muster.core.progress import Progress
from muster.core.results import RunResult, RunState, StopKind, StopReason
from muster.core.sweep import possible_ids
from muster.rundir.job_record import Scheduled
from muster.rundir.run import Run, Unreadable
from muster.schedulers import get_scheduler

if TYPE_CHECKING:
    from muster.schedulers.scheduler import JobEnd, Phase

ANSWERS_WITHIN = 15.0
"""Seconds for a remote controller, or a scheduler, to answer."""

_HAND_OVER = 10.0
"""Seconds after the record of a run in which its controller may not listen yet, and nothing else tells that it runs."""


class RunStatus(NamedTuple):
    """The state of a run at one moment."""

    state: RunState
    why: str = ""
    """The reason for `pending`, `lost`, `unknown` and `unreadable`, for users."""
    outcome: RunResult | None = None
    """The result, if it has ended; None for an attempt that will be repeated."""
    heard: bool = False
    """True if another machine, or a scheduler, has just reported that it runs."""
    met_limit: bool = False
    """True if it was lost because this user's process limit was reached."""
    elsewhere: bool = False
    """True if it ended on another machine, whose files may say how."""
    progress: Progress | None = None
    """How far it is, if it runs and that was asked and reported."""


class Controller(NamedTuple):
    """The answer from the controller of a run that is on another machine, or detached."""

    lives: bool
    silent: str = ""
    """Why there was no answer; then it may be alive or not."""


class Sight(Protocol):
    """The questions that can be asked about a run. Each may take time, and is asked only if it matters."""

    @property
    def anothers(self) -> bool:
        """Whether the run belongs to another user, and this is root."""

    @property
    def machine(self) -> Mapping[str, str]:
        """The `host` and `boot` ids of this machine."""

    def now(self) -> float:
        """Return the Unix time."""

    def queued(self) -> str | None:
        """Return the state of its job in the queue; empty if it is no longer there, None if there is no answer."""

    def waiting(self) -> str:
        """Return why its job has not started, for users; empty if the scheduler does not say."""

    def past(self) -> str:
        """Return the final state of its job; empty if unknown."""

    def cancelled_by(self) -> str:
        """Return who cancelled its job; empty if unknown."""

    def controller(self) -> Controller:
        """Return the controller's answer."""

    def listens(self) -> bool:
        """Return whether its agent or controller is on this machine."""

    def starter_lives(self) -> bool:
        """Return whether the process that started it is alive on this machine, and will still record its end."""


def status(run: Run, sight: Sight) -> RunStatus:
    """Return the status of a run. No answer never means that it has ended. Raises `Unreadable`."""
    if sight.anothers:
        return _of_another_user(run, sight)
    job, outcome = run.job, run.outcome
    if outcome is not None and not _comes_again(run, outcome, sight):
        return RunStatus(outcome.state, outcome=outcome)
    scheduled = run.scheduled
    if scheduled is not None and (not scheduled.allocated or run.read(RECORD) is None):
        return _in_queue(run, scheduled, sight)  # asked once for all runs, and needs no job step
    if job.get("served"):
        return _served(run, sight)
    if job.get("host") != sight.machine["host"]:
        return RunStatus(RunState.UNKNOWN, f"it was started on {job.get('host')}; run this command there")
    if job.get("boot") != sight.machine["boot"]:
        return RunStatus(RunState.LOST, "the machine rebooted during the run")
    if sight.listens() or sight.starter_lives():
        return RunStatus(RunState.RUNNING)
    return _ended(run)  # it may have ended since it was checked


def _comes_again(run: Run, outcome: RunResult, sight: Sight) -> bool:
    """Return whether only an attempt has ended: the job is in the queue again, or will be in a moment."""
    scheduled = run.scheduled
    if scheduled is None or not scheduled.requeue or outcome.code == 0:
        return False
    state = sight.queued()
    return state is None or _goes_on(get_scheduler(scheduled.name).phase(state))


def _goes_on(phase: Phase) -> bool:
    from muster.schedulers.scheduler import Phase

    return phase is Phase.PENDING or phase.lives


def _of_another_user(run: Run, sight: Sight) -> RunStatus:
    """Return the status of another user's run, as far as this machine knows by itself."""
    if sight.listens():
        return RunStatus(RunState.RUNNING)
    job, outcome, machine = run.job, run.outcome, sight.machine
    scheduled = run.scheduled
    if outcome is not None and (scheduled is None or not scheduled.requeue):
        return RunStatus(outcome.state, outcome=outcome)
    if scheduled is not None or job.get("host") != machine["host"]:
        return RunStatus(RunState.UNKNOWN, "it belongs to another user; run this command as that user")
    young = job.get("served") and sight.now() - float(job["time"]) < _HAND_OVER
    if job.get("boot") == machine["boot"] and (young or sight.starter_lives()):
        return RunStatus(RunState.RUNNING)
    return _ended(run)


def _in_queue(run: Run, scheduled: Scheduled, sight: Sight) -> RunStatus:
    """Return the status of a run that only its scheduler knows about."""
    from muster.schedulers.scheduler import Phase  # imported late: most runs have no scheduler

    of, state = get_scheduler(scheduled.name), sight.queued()
    if state is None:
        return RunStatus(RunState.UNKNOWN, f"no answer from {of.title}")
    phase = of.phase(state)
    if phase is Phase.PENDING:
        return RunStatus(RunState.PENDING, sight.waiting())
    if phase.lives:
        return RunStatus(RunState.RUNNING, heard=True)
    os.listdir(run.path)  # over NFS, this fetches what a node has written meanwhile
    outcome = run.outcome
    state = state or ("" if outcome is not None else sight.past())
    if outcome is None and state in of.ends:
        outcome = _end_in_queue(run, of.ends[state], state, sight)
    if outcome is None and not state and not _has_begun(run, scheduled):
        # some schedulers forget at once what never ran, such as tasks of an array
        reason = StopReason(StopKind.OTHER, message=_cancelled_early(scheduled))
        outcome = RunResult(RunState.KILLED, 137, 0.0, 0, reason)
    if outcome is None:
        return RunStatus(RunState.LOST, f"job {scheduled.job} is no longer known to {of.title}")
    return RunStatus(outcome.state, outcome=outcome)


_OF_JOBS = (RECORD, "agents.log", "controller.log")
"""Files that the job of a run writes."""


def _has_begun(run: Run, scheduled: Scheduled) -> bool:
    """Return whether its job has started: then the scheduler has created the file with the job's output."""
    names = [*_OF_JOBS, *(name.replace("%j", scheduled.job) for name in get_scheduler(scheduled.name).outputs)]
    folders = [run.path, *(run.path.with_name(ids.sweep) for ids in possible_ids(run.id))]
    return bool(run.attempts()) or any(os.path.lexists(folder / name) for folder in folders for name in names)


_CONDITIONS = {"ok": "has succeeded", "failed": "has failed", "any": "has ended"}


def _cancelled_early(scheduled: Scheduled, by: str = "") -> str:
    """Return how a job that has not started was cancelled, with what it waited for."""
    words = "it was cancelled" + (f" by {by}" if by else "")
    waits = [one.rpartition(":") for one in scheduled.after]
    jobs = " and ".join(f"job {job} {_CONDITIONS.get(how, 'has ended')}" for job, _, how in waits)
    return f"{words}; it was to start once {jobs}" if jobs else words


def _end_in_queue(run: Run, end: JobEnd, state: str, sight: Sight) -> RunResult:
    """Return the result for an end that only the scheduler observed, with its name `state`."""
    attempts = run.attempts()
    took = max(0.0, sight.now() - float(run.job["time"])) if attempts else 0.0  # it may never have started
    how = end.words
    if end.failed and run.read(RECORD) is not None:
        how = f"the controller on {run.job['host']} was killed"
    elif end.cancelled:
        who, scheduled = sight.cancelled_by(), run.scheduled
        how = f"it was cancelled by {who}" if who else how
        if scheduled is not None and not _has_begun(run, scheduled):
            how = _cancelled_early(scheduled, who)
    reason = StopReason(StopKind.OTHER, message=f"{how} ({state})")
    return RunResult(end.state, end.code, took, max(attempts, default=0), reason)


def _served(run: Run, sight: Sight) -> RunStatus:
    """Return the status of a run that its controller knows about."""
    found = sight.controller()
    if found.silent:
        words = f"no answer from its controller on {run.job['served']['name']}"
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
        except Unreadable:  # the agent may have been killed while writing it
            continue
        if isinstance(ended.get("why"), str):
            why = f"{ended['why']}, and its agent terminated the ranks"
            return RunStatus(RunState.LOST, why, met_limit=ended.get("limit") is True)
    return RunStatus(RunState.LOST, "muster and its agent were killed, or the disk was full")
