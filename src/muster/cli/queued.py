"""Follow a run in a scheduler's queue."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from muster.cli.context import tell_progress
from muster.client import remote
from muster.client.attach import AttachedClient
from muster.client.client import Client
from muster.client.follow import Follower, wait
from muster.client.reconcile import cancel, reconcile
from muster.controller.connections import captured_signals
from muster.controller.unsent_output import show_rest
from muster.core.controller_config import RECORD
from muster.core.hostlist import fold_hostlist
from muster.core.json_records import plan_from_json
from muster.core.results import SIGHUP, SIGTERM
from muster.linux.eventloop import EventLoop
from muster.linux.signals import CapturedSignals, not_ignored
from muster.rundir.job_record import Scheduled
from muster.rundir.run import Run
from muster.rundir.start_notes import StartNotes
from muster.rundir.sweeps import sweep_run
from muster.runner.context import Viewer
from muster.schedulers import get_scheduler, title
from muster.schedulers.client import client
from muster.schedulers.scheduler import Phase
from muster.ui.reason_text import reason_in_words
from muster.ui.view import View

_LOOK = 2.0
"""Seconds between checks of the queue."""
_TICK = 0.1
"""Seconds between checks for the controller, which appears as a file."""
_AGAIN = 3.0
"""Seconds within which a second Ctrl-C cancels the job."""


def follow(run: Run, viewer: Viewer, quiet: bool = False, attached: bool = False) -> int:
    """Print why the run is pending, then show it until it ends. The first Ctrl-C only detaches.

    `attached`: this terminal did not start the run, and Ctrl-C never cancels the job.
    """
    leave = _leave_it if attached else _leave
    with EventLoop() as loop, CapturedSignals(loop, not_ignored((SIGTERM, SIGHUP))) as signals:
        try:
            watch = _watch(run, viewer, quiet, loop, signals)
        except KeyboardInterrupt:
            return leave(run)
    if signals.pending:  # `timeout`, or a closed terminal: there will be no second signal
        _leave_it(run)
        return 128 + signals.pending[0]
    if watch is not None and watch.left:
        return leave(run)
    if watch is not None and watch.outcome is not None:
        return watch.outcome.code
    # it ended before anyone could watch, or watch again; or its controller was killed
    outcome = run.outcome
    view, _ = _show_files(run, run.read("plan.json"), viewer, watch)
    if outcome is None or view is None:
        return _ended_unseen(run)
    view.finish(outcome)
    return outcome.code


def _watch(run: Run, viewer: Viewer, quiet: bool, loop: EventLoop, signals: CapturedSignals) -> AttachedClient | None:
    """Watch the run through all its attempts, or until a signal is pending.

    Returns the last client; None if there was nothing to watch.
    """
    scheduled = _job_of(run)
    asks, number, requeues = client(scheduled.name), scheduled.job, scheduled.requeue
    root, since = run.path.parents[1], float(run.job["time"])
    watch: AttachedClient | None = None
    watched: Any = None
    told, next_look, waits = "", 0.0, False
    notes = StartNotes(run, lambda text: tell_progress(text, quiet))
    while not signals.pending:
        ended = run.outcome
        if ended is not None and (not requeues or ended.code == 0):
            return watch
        if time.monotonic() >= next_look:
            next_look = time.monotonic() + _LOOK
            os.listdir(run.path)  # over NFS, this fetches what nodes have written meanwhile
            found = asks.jobs(root, since)
            seen = None if found is None else found.get(number)
            phase = Phase.UNKNOWN if seen is None else asks.phase(seen)
            if found is None:
                words = f"no answer from {asks.title}; waiting"
            elif seen is None or not (phase is Phase.PENDING or phase.lives):
                if waits:
                    how = f"no longer known to {asks.title}" if seen is None else f"{seen.state}, {seen.reason}"
                    tell_progress(f"requeued job {number} ended before its ranks restarted: {how}", quiet)
                return watch
            elif phase is Phase.PENDING:
                waits = watched is not None
                if seen.delayed and requeues and run.attempts():
                    asks.start_now(number)
                again = f" again (requeued, attempt {asks.restarts(number) + 1} of {requeues + 1})" if watched else ""
                words = f"job {number} is pending{again}" + (f": {seen.why}" if seen.why else "")
            elif phase is Phase.COMPLETING:
                words = f"job {number} is completing on {fold_hostlist(seen.hosts)}"
            else:
                words = f"job {number} is running on {fold_hostlist(seen.hosts)}"
            if words != told:
                told = words
                tell_progress(words, quiet)
                if phase is Phase.PENDING and seen is not None and seen.hopeless:
                    hint = f"remove it from the queue with `muster kill {run.operand}`; `muster nodes` lists the nodes"
                    print(f"hint: {hint}", file=sys.stderr, flush=True)
        notes.look()
        record = run.read(RECORD)
        if record is not None and record != watched and (plan := run.read("plan.json")) is not None:
            # a new controller sends no output of earlier attempts, which may have ended unwatched
            restarted = watch is not None or bool(requeues and run.attempts() and asks.restarts(number))
            view, offsets = _show_files(run, plan if restarted else None, viewer, watch)
            watched, waits = record, False
            with EventLoop() as watching, captured_signals(watching) as captured:
                watch = AttachedClient(
                    watching,
                    captured,
                    run.job["host"],
                    run.operand,
                    lambda: remote.connect(run),
                    lambda plan, run_id: viewer(plan, run_id, run.operand),
                    owner=False,
                    patience=600.0,
                    files=lambda: run,
                    lives=lambda: _lives(run),
                    view=view,
                    offsets=offsets,
                    events=watch.events if watch is not None else 0,
                    told=notes.told,
                )
                watch.go()
            if watch.left or (watch.outcome is not None and (not requeues or watch.outcome.code == 0)):
                return watch
            next_look = 0.0
        loop.run_once(_TICK)
    return watch


def _show_files(
    run: Run, plan: Any, viewer: Viewer, watch: AttachedClient | None
) -> tuple[View | None, dict[str, int]]:
    """Show what is in the logs and was not sent to the last client; nothing without a plan.

    Returns the view, and how much of each log was shown.
    """
    view, offsets = (watch.view, watch.offsets) if watch is not None else (None, {})
    if plan is not None:
        view = view or viewer(plan_from_json(plan), run.id, run.operand)
        show_rest(run, view, offsets)
    return view, offsets


def _job_of(run: Run) -> Scheduled:
    """Return the scheduler job of a run."""
    found = run.scheduled
    assert found is not None
    return found


def _lives(run: Run) -> bool:
    """Return whether the job is running, as far as is known, and its controller has not recorded a result."""
    outcome, scheduled = run.outcome, _job_of(run)
    if outcome is not None and (not scheduled.requeue or outcome.code == 0):
        return False
    asks = client(scheduled.name)
    found = asks.jobs(run.path.parents[1])
    return found is None or (scheduled.job in found and asks.phase(found[scheduled.job]).lives)


def _leave(run: Run) -> int:
    """Handle Ctrl-C: detach, and print how to stop the run; a second one soon after cancels the job."""
    number = _job_of(run).job
    say = f"muster: {run.id} continues as job {number}; press Ctrl-C again within {_AGAIN:g}s to cancel it"
    print(
        f"\n{say}\nmuster: reattach: muster attach {run.operand}; stop: muster kill {run.operand}",
        file=sys.stderr,
        flush=True,
    )
    try:
        time.sleep(_AGAIN)
    except KeyboardInterrupt:
        cancel(run)
        with Client(run) as client:
            found = wait(Follower(run, client), 60).status
        print(f"muster: job {number} cancelled (state: {found.state})", file=sys.stderr)
    return 130  # the run has not succeeded: `muster run … && next` does not go on


def _leave_it(run: Run) -> int:
    """Detach without touching the job."""
    say = f"reattach: muster attach {run.operand}; stop: muster kill {run.operand}"
    print(f"\nmuster: {run.id} continues as job {_job_of(run).job}; {say}", file=sys.stderr, flush=True)
    return 0


def _ended_unseen(run: Run) -> int:
    """Handle that the scheduler reports the job's end, and no controller has recorded a result."""
    scheduled, outcome = _job_of(run), reconcile(run).outcome
    how = reason_in_words(outcome.stopped) if outcome is not None else f"no longer known to {title(scheduled.name)}"
    print(f"muster: job {scheduled.job} ended: {how}", file=sys.stderr)
    names = get_scheduler(scheduled.name).outputs
    sweep = sweep_run(run)
    folders = [run.path, *([sweep.path] if sweep is not None else ())]
    for path in (folder / name.replace("%j", scheduled.job) for folder in folders for name in names):
        if not path.exists():
            continue
        for line in path.read_text(errors="replace").splitlines()[-6:]:
            print(f"    {line}", file=sys.stderr)
    return 125 if outcome is None else outcome.code
