"""Follow a run to its end: its controller tells of that over one connection, and only where there is none is it asked
for again and again."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from muster.agent.log_timeline import Grown
from muster.client.client import Client
from muster.client.local import is_anothers
from muster.client.reconcile import may_still_run, note_answer, reconcile
from muster.client.remote import keep_piece
from muster.client.status import RunStatus
from muster.core.controller_config import RECORD
from muster.core.json_records import Malformed
from muster.core.results import RunResult, RunState
from muster.rundir.run import Run
from muster.ui.text import outcome_as_json

_COMES_BACK = 60.0
"""Seconds for which a host that does not answer is asked again by who waits for the end of a run there."""
_LOOK = 2.0
"""Seconds between two trials to reach the controller in a job of a scheduler, which may be just ending."""
_PAUSE = 1.0
"""Seconds between two questions to a host that does not answer."""
_ARRIVES_WITHIN = 5.0
"""Seconds in which it has to answer: meanwhile nothing is shown."""
_LONG = 20.0
"""Seconds after which it is noted again that a run was heard of."""


def _say_nothing(why: str) -> None:
    """For who need not know that a host does not answer."""


def tell_silence(why: str) -> None:
    """Tell a person that a host does not answer."""
    print(f"muster: {why}; asking again for a minute", file=sys.stderr)


class Mirror:
    """Keeps what ranks write on other machines in the run directory here, and when it came."""

    def __init__(self, run: Run, ranks: Sequence[int]) -> None:
        self.run, self.ranks = run, ranks
        self._grown: dict[int, list[Grown]] = {}
        """What has come and nobody has taken, by attempt."""

    def offsets(self) -> dict[str, int]:
        """How much there is of each log."""
        found = {}
        for attempt in self.run.attempts():
            for rank in self.ranks:
                for stream in ("out", "err"):
                    path = self.run.log(attempt, rank, stream)
                    if path.exists():
                        found[f"{attempt}/{rank}.{stream}"] = path.stat().st_size
        return found

    def put(self, rank: int, stream: str, attempt: int, offset: int, data: bytes) -> None:
        """Keep a piece of a log. Raises OSError, and `Malformed` for what is none."""
        if stream not in ("out", "err"):
            raise Malformed(f"output of {stream!r}")
        name = str(self.run.log(attempt, rank, stream).relative_to(self.run.path))
        keep_piece(self.run, name, offset, data)
        self._grown.setdefault(attempt, []).append(Grown(time.time(), attempt, rank, stream, offset + len(data)))

    def take(self, attempt: int) -> list[Grown]:
        """What has come of this attempt since the last time."""
        return self._grown.pop(attempt, [])


class Follower:
    """Looks whether a run goes on, as often as one likes: that is a question only where its controller does not tell.

    A host that does not answer may come back, or the way to it: `lost_sight` is told why, once each time, and the
    host is asked again for a minute before the run counts as `unknown`. `mirror` is given what its ranks write.
    """

    def __init__(
        self,
        run: Run,
        client: Client,
        lost_sight: Callable[[str], object] = _say_nothing,
        mirror: Mirror | None = None,
    ) -> None:
        self.run, self.client, self.mirror = run, client, mirror
        self._lost_sight = lost_sight
        self._silent_since: float | None = None
        self._final: RunStatus | None = None
        self._past: bytes | None = None
        """What the controller of an attempt has left that is over, while a scheduler may start another one."""
        self._tried: bytes | None = None
        """What the controller has left that was tried to reach last."""
        self._next_trial, self._trial_pause = 0.0, _LOOK

    def look(self, left: float = _LONG) -> RunStatus:
        """How the run stands now, for who has so many seconds `left`. Raises `Unreadable`."""
        if self._final is not None:
            return self._final
        outcome = self.client.outcome
        if outcome is not None and outcome.code and (scheduled := self.run.scheduled) and scheduled.requeue:
            self._past = self.run.bytes_of(RECORD)
            self.client.outcome = None
            self.client.close()
        elif outcome is not None:
            self._final = self._ended(outcome)
            return self._final
        if self.client.subscribed:
            note_answer(self.run)
            return RunStatus(RunState.RUNNING, heard=True)
        found = reconcile(self.run, client=self.client)
        if found.state is RunState.RUNNING:
            self._subscribe(left)
        return found

    def goes_on(self, found: RunStatus) -> bool:
        """Who waits for the end has to wait longer."""
        if found.state is not RunState.UNKNOWN or not self.run.job.get("served"):
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = time.monotonic()
            self._lost_sight(found.why)
        comes_back = self._silent_since is not None and time.monotonic() - self._silent_since < _COMES_BACK
        return comes_back or may_still_run(self.run, found.state)

    @property
    def silent(self) -> bool:
        """The host does not answer."""
        return self._silent_since is not None

    def pause(self, seconds: float) -> None:
        """Let time pass, until there may be news: that is less where nobody tells of them, and more where all are
        silent."""
        if self.client.subscribed:
            self.client.pause(min(seconds, _LONG))
        else:
            self.client.pause(_PAUSE if self.silent else min(seconds, 0.25))

    def _subscribe(self, left: float) -> None:
        """Have the controller tell of the end, if there is one that can be reached."""
        job = self.run.job
        if not job.get("served") or is_anothers(self.run):
            return
        if not self.client.connected:  # its scheduler has told that it runs
            record = self.run.bytes_of(RECORD)
            if record in (None, self._past) or left < _ARRIVES_WITHIN:
                return
            if record == self._tried and time.monotonic() < self._next_trial:
                return
            self._tried = record
            answer = self.client.ask("state", _ARRIVES_WITHIN)
            if answer.get("gone"):
                self._past = record
            self._trial_pause = min(_LONG, 2 * self._trial_pause) if "silent" in answer else _LOOK
            self._next_trial = time.monotonic() + self._trial_pause
        mirror = self.mirror if self.client.keeps_files else None
        if mirror is None:
            self.client.subscribe()
        else:
            self.client.subscribe(mirror.ranks, mirror.offsets(), mirror.put)

    def _ended(self, outcome: RunResult) -> RunStatus:
        """Its controller has told of the end: bring the files here, over the same connection."""
        if self.client.keeps_files:
            self.client.sync_files(last=True)
            if self.run.outcome is None:
                self.run.write_outcome(outcome_as_json(outcome))
        self.client.close()
        return RunStatus(outcome.state, outcome=outcome)


class Waited(NamedTuple):
    """What came of waiting for the end of a run."""

    status: RunStatus
    in_time: bool
    """False where the time was over before anything was known of an end."""


def wait(follower: Follower, timeout: float | None = None) -> Waited:
    """Wait until a run has ended, for at most `timeout` seconds."""
    deadline = None if timeout is None else time.monotonic() + timeout

    def left() -> float:
        return _LONG if deadline is None else min(_LONG, deadline - time.monotonic())

    pause = 0.01
    while True:
        now = follower.look(left())
        if not follower.goes_on(now):
            return Waited(now, True)
        if left() <= 0:
            return Waited(now, False)
        follower.pause(left() if follower.client.subscribed else pause)
        pause = min(0.25, pause * 1.5)
