"""What became of a run, or what it does now: decided from what is told, and nothing is written. See `contact.py`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from muster.results import Outcome, RunState, StopKind, StopReason
from muster.runs import Run, Unreadable


class RunStatus(NamedTuple):
    """The state of a run at one moment."""

    state: RunState
    why: str = ""
    """What is behind `lost`, `unknown` and `unreadable`, for a person."""
    outcome: Outcome | None = None
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
    if job.get("slurm") and (not job.get("allocated") or run.read("serve.json") is None):
        return _in_queue(run, sight)  # asked once for all runs, and no step of its own is needed
    if job.get("served"):
        return _served(run, sight)
    if job.get("host") != sight.machine["host"]:
        return RunStatus(RunState.UNKNOWN, f"it was started on {job.get('host')}; ask there")
    if job.get("boot") != sight.machine["boot"]:
        return RunStatus(RunState.LOST, "the machine was restarted while it ran")
    if sight.listens() or sight.starter_lives():
        return RunStatus(RunState.RUNNING)
    return _ended(run)  # perhaps since it was looked at


def _comes_again(run: Run, outcome: Outcome, sight: Sight) -> bool:
    """This was the end of an attempt only: Slurm has the job in its queue again, or will in a moment."""
    if not run.job.get("requeue") or outcome.code == 0:
        return False
    from muster.schedulers import slurm  # most runs need none of it

    state = sight.queued()
    return state is None or state in slurm.PENDING | slurm.LIVING


def _of_another_user(run: Run, sight: Sight) -> RunStatus:
    """As far as this machine knows by itself."""
    if sight.listens():
        return RunStatus(RunState.RUNNING)
    job, outcome, machine = run.job, run.outcome, sight.machine
    if outcome is not None and not job.get("requeue"):
        return RunStatus(outcome.state, outcome=outcome)
    if job.get("slurm") or job.get("host") != machine["host"]:
        return RunStatus(RunState.UNKNOWN, "it is another user's, and this machine does not know; ask as that user")
    if job.get("boot") == machine["boot"] and sight.starter_lives():
        return RunStatus(RunState.RUNNING)
    return _ended(run)


def _in_queue(run: Run, sight: Sight) -> RunStatus:
    """Of which only Slurm knows something."""
    from muster.schedulers import slurm

    state = sight.queued()
    if state is None:
        return RunStatus(RunState.UNKNOWN, "Slurm does not answer")
    if state in slurm.PENDING:
        return RunStatus(RunState.PENDING)
    if state in slurm.LIVING:
        return RunStatus(RunState.RUNNING, heard=True)
    os.listdir(run.path)  # over NFS this brings what was written on a node meanwhile
    outcome = run.outcome
    state = state or ("" if outcome is not None else sight.past())
    if outcome is None and state in _ENDS:
        outcome = _end_in_slurm(run, sight, state)
    if outcome is None:
        return RunStatus(RunState.LOST, f"Slurm knows its job {run.job['slurm']} no more")
    return RunStatus(outcome.state, outcome=outcome)


def _end_in_slurm(run: Run, sight: Sight, state: str) -> Outcome:
    """An end that Slurm alone saw."""
    from muster.schedulers import slurm

    kind, code = _ENDS[state]
    attempts = run.attempts()
    took = max(0.0, sight.now() - float(run.job["time"])) if attempts else 0.0  # it may never have started
    how = slurm.how_ended(state)
    if state == "FAILED" and run.read("serve.json") is not None:
        how = f"the controller of the run on {run.job['host']} was killed ({state})"
    elif state == "CANCELLED" and (who := sight.cancelled_by()):
        how = f"it was cancelled by {who} ({state})"
    return Outcome(kind, code, took, max(attempts, default=0), StopReason(StopKind.OTHER, message=how))


_ENDS = {
    "CANCELLED": (RunState.KILLED, 137),
    "TIMEOUT": (RunState.TIMED_OUT, 124),
    "PREEMPTED": (RunState.KILLED, 137),
    "NODE_FAIL": (RunState.BROKEN, 125),
    "OUT_OF_MEMORY": (RunState.BROKEN, 125),
    "BOOT_FAIL": (RunState.BROKEN, 125),
    "DEADLINE": (RunState.TIMED_OUT, 124),
    "FAILED": (RunState.BROKEN, 125),
    "COMPLETED": (RunState.BROKEN, 125),
}
"""Ends that Slurm alone saw, as states and exit statuses of ours. A supervisor would have written its own."""


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
