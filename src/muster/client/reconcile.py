"""The status of runs, as the controller or scheduler reports it, with which the local run directories are updated."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from muster.client.local import agent_listens, answers, is_anothers, starter_lives
from muster.client.status import ANSWERS_WITHIN, Controller, RunStatus, status
from muster.client.sweeps import PointStatus, whole
from muster.core.results import RunState
from muster.errors import InvalidRequest, MusterError, Unreachable
from muster.linux.identity import identity
from muster.rundir.run import Run, Unreadable
from muster.rundir.sweeps import STOP, is_sweep, runs_by_point, sweep_of, why_not_started

if TYPE_CHECKING:
    from muster.client.client import Client
    from muster.notification import Notification
    from muster.schedulers.client import SchedulerClient
    from muster.schedulers.scheduler import Final

_TO_GIVE_UP = 1.0
"""Seconds to terminate an ssh that did not connect."""


def statuses(runs: Sequence[Run], within: float, progress: bool = False) -> list[RunStatus]:
    """Return the status of each run, asking all at once; unknown if there is no answer in `within` seconds.

    `progress`: with the steps that the ranks report.
    """
    found: dict[str, RunStatus] = {}

    def look(several: Sequence[Run]) -> None:
        for run in several:
            try:
                found[run.id] = _with_progress(run, within) if progress else reconcile(run, within)
            except Unreadable as error:
                found[run.id] = RunStatus(RunState.UNREADABLE, error.sentence)
            except MusterError as error:
                found[run.id] = RunStatus(RunState.UNKNOWN, error.sentence)

    here, queued, far = _by_place(runs)
    # One thread for all runs in queues, since each scheduler is asked once and its answer cached. No pool: its threads
    # would be joined at exit.
    asked = [queued, *([run] for run in far)]
    asking = [threading.Thread(target=look, args=(several,), daemon=True) for several in asked]
    deadline = time.monotonic() + within + _TO_GIVE_UP
    for thread in asking:
        thread.start()
    look(here)
    for thread in asking:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = RunStatus(RunState.UNKNOWN, f"no answer within {within:g}s")
    return [found.get(run.id, late) for run in runs]


def _with_progress(run: Run, within: float) -> RunStatus:
    """Return the status of a run, with the step that its ranks report if it is running. Raises `MusterError`."""
    if is_settled(run):
        return reconcile(run, within)
    from muster.client.client import Client
    from muster.client.progress import progress_now

    with Client(run) as client:
        found = reconcile(run, within, client)
        if found.state is RunState.RUNNING:
            found = found._replace(progress=progress_now(run, client, within))
    return found


def is_settled(run: Run) -> bool:
    """Return whether its files alone tell the status of a run: it has ended, and no scheduler may start it again.

    Nobody is asked about such a run, which most runs of a list are: then nothing that asks has to be imported. Raises
    `Unreadable`.
    """
    if is_sweep(run) or run.outcome is None:
        return False
    scheduled = run.scheduled
    return scheduled is None or not scheduled.requeue


def _by_place(runs: Sequence[Run]) -> tuple[list[Run], list[Run], list[Run]]:
    """Return the runs known to this machine, those known to a scheduler, and those known to another machine."""
    here: list[Run] = []
    queued: list[Run] = []
    far: list[Run] = []
    for run in runs:
        try:
            job, over = run.job, run.outcome is not None
        except Unreadable:
            job, over = {}, True
        if is_anothers(run):
            here.append(run)
        else:
            (queued if job.get("scheduler") else far if job.get("served") and not over else here).append(run)
    return here, queued, far


def require_known(run: Run, found: RunStatus, otherwise: str = "") -> None:
    """Raise `Unreachable` if it is unknown whether a run has ended: no answer never means that it has.

    `otherwise`: what else the user can do, for the hint.
    """
    if found.state is RunState.UNKNOWN:
        hint = ", ".join(filter(None, ("try again when the host is reachable", otherwise)))
        raise Unreachable(f"the state of {run.id} is unknown: {found.why}", hint)


class _Sight:
    """The questions about a run, asked from this machine: see `status.Sight`. Answers are cached."""

    def __init__(self, run: Run, within: float, client: Client | None):
        self.run, self.within = run, within
        self.client = client
        """The connection to its controller; None if nobody needs to be asked (`is_settled`)."""
        self.anothers = is_anothers(run)
        self.machine = identity()
        self._controller: Controller | None = None

    def now(self) -> float:
        """Return the Unix time."""
        return time.time()

    def queued(self) -> str | None:
        """Return the state of its job in the scheduler's queue."""
        found = _client_of(self.run)
        return None if found is None else found.state(self.run, self.within)

    def waiting(self) -> str:
        """Return why its job has not started."""
        found = _client_of(self.run)
        seen = None if found is None else found.seen(self.run, self.within)
        return "" if seen is None else seen.why

    def past(self) -> str:
        """Return the final state of its job from accounting."""
        return self._final().state

    def cancelled_by(self) -> str:
        """Return the user who cancelled its job, from accounting."""
        import pwd

        with suppress(KeyError, ValueError):
            return pwd.getpwuid(int(self._final().cancelled_by)).pw_name
        return ""

    def _final(self) -> Final:
        from muster.schedulers.scheduler import Final

        scheduled, found = self.run.scheduled, _client_of(self.run)
        return Final() if scheduled is None or found is None else found.final(scheduled.job)

    def controller(self) -> Controller:
        """Return the controller's answer."""
        if self._controller is None:
            if self.client is not None:
                answer = self.client.ask("state", self.within)
            else:  # its result has just been deleted
                from muster.client.client import Client

                with Client(self.run) as own:
                    answer = own.ask("state", self.within)
            self._controller = Controller(not answer.get("gone"), str(answer.get("silent", "")))
        return self._controller

    def listens(self) -> bool:
        """Return whether the run's agent (for another user's run, or its controller) is on this machine."""
        return answers(self.run) if self.anothers else agent_listens(self.run)

    def starter_lives(self) -> bool:
        """Return whether the starting process is alive, and not stopped (Ctrl-Z) after its agent killed the ranks."""
        return starter_lives(self.run)


def reconcile(run: Run, within: float = ANSWERS_WITHIN, client: Client | None = None) -> RunStatus:
    """Return the status of a run, and update the local run directory with it.

    `within`: timeout in seconds for another machine, or a scheduler. `client`: the connection to use. Raises
    `Unreadable`.
    """
    if is_sweep(run):
        return whole(point_statuses(run, within), sweep_of(run).chain)
    if client is None and not is_settled(run):
        from muster.client.client import Client  # imported late: most runs have ended

        with Client(run) as own:
            return reconcile(run, within, own)
    sight = _Sight(run, within, client)
    found = status(run, sight)
    if found.elsewhere and found.outcome is None and client is not None:
        client.sync_files()
        found = status(run, sight)
    if sight.anothers:
        return found
    if found.heard:
        note_answer(run)
    unseen = found.outcome is not None and run.outcome is None
    if unseen and found.outcome is not None:
        from muster.ui.text import outcome_as_json

        run.write_outcome(outcome_as_json(found.outcome))
    scheduled = run.scheduled
    if found.state is RunState.LOST or unseen or (found.outcome is not None and scheduled and scheduled.requeue):
        from muster.notification import notify  # imported late: few ends are found out by a command

        # no controller decided this end, or it could not know whether the scheduler would start the run again
        _started.append(notify(run, found.state, found.outcome, found.why))
    return found


def point_statuses(
    sweep: Run, within: float = ANSWERS_WITHIN, known: Mapping[str, RunStatus] | None = None
) -> list[PointStatus]:
    """Return the status of each point, in order. `known`: that of runs which need not be asked."""
    runs = runs_by_point(sweep)
    asked = [run for run in runs.values() if known is None or run.id not in known]
    known = {**(known or {}), **dict(zip((run.id for run in asked), statuses(asked, within)))}
    begins = not (sweep.path / STOP).exists()
    coming = len(runs) < len(sweep_of(sweep).points) and begins and starter_lives(sweep)
    why = "" if coming or len(runs) == len(sweep_of(sweep).points) else why_not_started(sweep)
    absent = RunStatus(RunState.PENDING) if coming else RunStatus(RunState.LOST, f"not started: {why}" if why else "")
    return [
        PointStatus(point, run, absent if run is None else known[run.id])
        for point in sweep_of(sweep).points
        for run in (runs.get(point.number),)
    ]


_started: list[Notification | None] = []
"""Keeps processes that nobody waits for: Python warns of one that it forgets."""


def lives(run: Run) -> bool:
    """Return whether the run is pending or running; False if that is unknown."""
    try:
        return reconcile(run).state.lives
    except Unreadable:
        return False


def has_not_ended(run: Run) -> bool:
    """Return whether the run is unfinished as far as is known locally, without asking another machine."""
    try:
        scheduled = run.scheduled
        if run.outcome is not None and (scheduled is None or not scheduled.requeue):
            return False
        return lives(run) if not run.job.get("served") or scheduled is not None else True
    except Unreadable:
        return False


def may_still_run(run: Run, state: RunState) -> bool:
    """Return whether to keep waiting for the end; an unresponsive scheduler says nothing about the job."""
    return state.lives or (state is RunState.UNKNOWN and run.scheduled is not None)


def cancel(run: Run) -> None:
    """Cancel the scheduler job of a run, or the job array of a sweep. Raises `InvalidRequest`, `Unreachable`."""
    from muster.schedulers.scheduler import program_of

    scheduled, found = run.scheduled, _client_of(run)
    assert scheduled is not None and found is not None
    if is_anothers(run):
        show, end = found.scheduler.jobs().argv, found.scheduler.cancel(scheduled.job)
        raise InvalidRequest(
            f"{run.id} belongs to another user, and claims to be job {scheduled.job}",
            f"use `{program_of(show)}` and `{program_of(end)}`",
        )
    found.cancel(scheduled.job)


def _client_of(run: Run) -> SchedulerClient | None:
    """Return the client of a run's scheduler; None if it has none."""
    if run.scheduled is None:
        return None
    from muster.schedulers.client import client  # imported late: most runs do not need it

    return client(run.scheduled.name)


_ANSWERED, _ANSWERED_EVERY = "answered", 30.0
"""A file whose mtime is the time of the last answer, and the seconds after which it is updated."""


def note_answer(run: Run) -> None:
    """Record that a run was known to run now, for a day when nobody answers."""
    path = run.path / _ANSWERED
    with suppress(OSError):
        if time.time() - (path.stat().st_mtime if path.exists() else 0.0) > _ANSWERED_EVERY:
            path.touch()


def last_answer(run: Run) -> float | None:
    """Return the seconds since a run that is now `unknown` was known to run; None if it never was."""
    try:
        return max(0.0, time.time() - (run.path / _ANSWERED).stat().st_mtime)
    except OSError:
        return None
