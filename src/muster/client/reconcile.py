"""What became of runs: who knows is asked, and the run directories here are brought up to date with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from muster.client.client import ANSWERS_WITHIN, Client
from muster.client.local import agent_listens, answers, is_anothers, starter_lives
from muster.client.status import Controller, RunStatus, status
from muster.core.results import RunState
from muster.errors import InvalidRequest, MusterError, Unreachable
from muster.linux.identity import identity
from muster.rundir.run import Run, Unreadable
from muster.schedulers.scheduler import Final
from muster.ui.text import outcome_as_json

if TYPE_CHECKING:
    from muster.schedulers.client import SchedulerClient

_TO_GIVE_UP = 1.0
"""Seconds for ending an ssh that got nowhere."""


def statuses(runs: Sequence[Run], within: float) -> list[RunStatus]:
    """What became of each run. All are asked at the same time; what has not answered in `within` seconds is unknown."""
    found: dict[str, RunStatus] = {}

    def look(several: Sequence[Run]) -> None:
        for run in several:
            try:
                found[run.id] = reconcile(run, within)
            except Unreadable as error:
                found[run.id] = RunStatus(RunState.UNREADABLE, error.sentence)
            except MusterError as error:
                found[run.id] = RunStatus(RunState.UNKNOWN, error.sentence)

    here, queued, far = _by_place(runs)
    # one thread for all that are in queues, since each is asked once and its answer kept. No pool: its threads would be
    # waited for when this program ends
    asked = [queued, *([run] for run in far)]
    asking = [threading.Thread(target=look, args=(several,), daemon=True) for several in asked]
    deadline = time.monotonic() + within + _TO_GIVE_UP
    for thread in asking:
        thread.start()
    look(here)
    for thread in asking:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = RunStatus(RunState.UNKNOWN, f"nothing was heard within {within:g} s")
    return [found.get(run.id, late) for run in runs]


def _by_place(runs: Sequence[Run]) -> tuple[list[Run], list[Run], list[Run]]:
    """Those of which this machine knows all; those of which a scheduler is asked; those of which another machine is."""
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


def require_known(run: Run, found: RunStatus) -> None:
    """Raise `Unreachable` for a run of which nobody knows whether it still runs: no answer is never an end."""
    if found.state is RunState.UNKNOWN:
        raise Unreachable(f"{run.id}: it is unknown whether it still runs: {found.why}", "try again when that answers")


class _Sight:
    """What is asked about a run from this machine: see `status.Sight`. Each answer is kept."""

    def __init__(self, run: Run, within: float, client: Client):
        self.run, self.within, self.client = run, within, client
        self.anothers = is_anothers(run)
        self.machine = identity()
        self._controller: Controller | None = None

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def queued(self) -> str | None:
        """The state of its job, as its scheduler has it."""
        found = _client_of(self.run)
        return None if found is None else found.state(self.run, self.within)

    def past(self) -> str:
        """The state with which its job ended, as accounting has it."""
        return self._final().state

    def cancelled_by(self) -> str:
        """Who cancelled its job, as accounting has it."""
        import pwd

        with suppress(KeyError, ValueError):
            return pwd.getpwuid(int(self._final().cancelled_by)).pw_name
        return ""

    def _final(self) -> Final:
        scheduled, found = self.run.scheduled, _client_of(self.run)
        return Final() if scheduled is None or found is None else found.final(scheduled.job)

    def controller(self) -> Controller:
        """What its controller answers."""
        if self._controller is None:
            answer = self.client.ask("state", self.within)
            self._controller = Controller(not answer.get("gone"), str(answer.get("silent", "")))
        return self._controller

    def listens(self) -> bool:
        """Its agent is here, even if it takes no connection; of another user's run, or its controller."""
        return answers(self.run) if self.anothers else agent_listens(self.run)

    def starter_lives(self) -> bool:
        """The process that job.json names lives, and is not stopped (Ctrl-Z) while its agent has ended the ranks."""
        return starter_lives(self.run)


def reconcile(run: Run, within: float = ANSWERS_WITHIN, client: Client | None = None) -> RunStatus:
    """What became of a run; the run directory here is brought up to date with it.

    `within` bounds the seconds for which another machine, or a scheduler, is waited for. `client` is the connection to
    use. Raises `Unreadable`.
    """
    if client is None:
        with Client(run) as own:
            return reconcile(run, within, own)
    sight = _Sight(run, within, client)
    found = status(run, sight)
    if found.elsewhere and found.outcome is None:
        client.sync_files()
        found = status(run, sight)
    if sight.anothers:
        return found
    if found.heard:
        note_answer(run)
    if found.outcome is not None and run.outcome is None:
        run.write_outcome(outcome_as_json(found.outcome))
    return found


def lives(run: Run) -> bool:
    """It runs, or waits to; one whose files are damaged or whose host does not answer is not known to."""
    try:
        return reconcile(run).state.lives
    except Unreadable:
        return False


def has_not_ended(run: Run) -> bool:
    """It lives as far as is known here, without a question to another machine that takes time."""
    try:
        scheduled = run.scheduled
        if run.outcome is not None and (scheduled is None or not scheduled.requeue):
            return False
        return lives(run) if not run.job.get("served") or scheduled is not None else True
    except Unreadable:
        return False


def may_still_run(run: Run, state: RunState) -> bool:
    """Who waits for the end has to wait longer; a scheduler that does not answer says nothing about the job."""
    return state.lives or (state is RunState.UNKNOWN and run.scheduled is not None)


def cancel(run: Run) -> None:
    """Have its scheduler end the job of a run. Raises `InvalidRequest`, `Unreachable`."""
    scheduled, found = run.scheduled, _client_of(run)
    assert scheduled is not None and found is not None
    if is_anothers(run):
        raise InvalidRequest(
            f"{run.id} is another user's, and says to be job {scheduled.job}",
            f"see `{found.scheduler.jobs().argv[0]}`, `{found.scheduler.cancel(scheduled.job)[0]}`",
        )
    found.cancel(scheduled.job)


def _client_of(run: Run) -> SchedulerClient | None:
    """Who asks the scheduler of a run; None where there is none."""
    from muster.schedulers.client import client  # most runs need none of it

    scheduled = run.scheduled
    return None if scheduled is None else client(scheduled.name)


_ANSWERED, _ANSWERED_EVERY = "answered", 30.0
"""A file whose time is that of the last answer, and the seconds after which it is worth another write."""


def note_answer(run: Run) -> None:
    """Keep when a run was last known to run, for the day on which nobody answers."""
    path = run.path / _ANSWERED
    with suppress(OSError):
        if time.time() - (path.stat().st_mtime if path.exists() else 0.0) > _ANSWERED_EVERY:
            path.touch()


def last_answer(run: Run) -> float | None:
    """Seconds since a run that is `unknown` now was known to run; None when it never was."""
    try:
        return max(0.0, time.time() - (run.path / _ANSWERED).stat().st_mtime)
    except OSError:
        return None
