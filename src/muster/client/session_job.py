"""The job of a session that has not started yet: waiting for it, and removing it from the queue."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from muster.client.queue import job_facts
from muster.client.reconcile import cancel, reconcile
from muster.core.controller_config import RECORD
from muster.core.printable import line as safe
from muster.core.results import RunResult, RunState, StopKind, StopReason
from muster.errors import ControlError
from muster.rundir.run import Run
from muster.rundir.session import has_begun
from muster.rundir.start_notes import StartNotes
from muster.schedulers import get_scheduler
from muster.ui.reason_text import reason_in_words
from muster.ui.text import outcome_as_json

_LOOKS, _QUEUE_LOOKS = 0.05, 2.0
"""Seconds between looks for the file that the controller writes, and at the queue."""


def await_job(run: Run, name: str, tell: Callable[[str], object]) -> None:
    """Wait until the job of a session has a controller. Raises `ControlError` if it has ended.

    `tell` shows the user why it waits.
    """
    told = ""
    notes = StartNotes(run, tell)
    while True:
        os.listdir(run.path)  # over NFS, this fetches what a node has written meanwhile
        if has_begun(run):
            return
        found = reconcile(run)
        if found.outcome is not None or found.state is RunState.LOST:
            why = reason_in_words(found.outcome.stopped) if found.outcome is not None else found.why
            raise ControlError(f"the session {name} has ended: {why or found.state}{_said(run)}", None)
        if found.state is RunState.UNKNOWN:
            words = f"{name}: {found.why}"
        else:
            facts = job_facts(run, found.state)
            job = f"job {facts.job}" if facts is not None else "its job"
            why = f": {facts.why}" if facts is not None and facts.why else ""
            how = f"is pending{why}" if found.state is RunState.PENDING else "is starting"
            words = f"{name}: {job} {how}"
        if words != told:
            told = words
            tell(f"{words}; waiting")
        _pause(run, _QUEUE_LOOKS, notes)


def _said(run: Run) -> str:
    """Return what the job of a session wrote before it ended, as further lines."""
    scheduled, lines = run.scheduled, []
    names = get_scheduler(scheduled.name).outputs if scheduled is not None else ()
    for name in names:
        path = run.path / name.replace("%j", scheduled.job if scheduled is not None else "")
        if path.exists():
            lines += path.read_text(errors="replace").splitlines()[-6:]
    return "".join(f"\n    {safe(line)}" for line in lines)


def _pause(run: Run, seconds: float, notes: StartNotes) -> None:
    """Wait for `seconds`, or until the controller of a session has begun; show what it does meanwhile."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not (run.path / RECORD).exists():
        notes.look()
        time.sleep(_LOOKS)


def leave_queue(run: Run, by: str) -> RunResult | None:
    """Remove the job of a session from the queue, and return its result; None if it has just started."""
    cancel(run)
    if has_begun(run):
        return None
    outcome = RunResult(RunState.SUCCEEDED, 0, 0.0, 0, StopReason(StopKind.RELEASED, by=by))
    run.write_outcome(outcome_as_json(outcome))
    return outcome
