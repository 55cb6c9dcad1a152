"""Follow a run to its end.

The controller reports the end over one connection; only if there is no controller, the run's status is polled.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from muster.agent.log_timeline import Grown
from muster.client.client import Client, Events
from muster.client.local import is_anothers
from muster.client.reconcile import may_still_run, note_answer, reconcile
from muster.client.remote import keep_piece
from muster.client.status import RunStatus
from muster.core.controller_config import RECORD
from muster.core.json_checks import Malformed
from muster.core.results import RunResult, RunState
from muster.rundir.run import Run
from muster.ui.text import outcome_as_json

_COMES_BACK = 60.0
"""Seconds for which an unresponsive host is asked again while waiting for the end of a run there."""
_LOOK = 2.0
"""Seconds between attempts to reach the controller in a scheduler's job, which may be just ending."""
_PAUSE = 1.0
"""Seconds between questions to a host that does not answer."""
_ARRIVES_WITHIN = 5.0
"""Seconds for it to answer: meanwhile nothing is shown."""
_LONG = 20.0
"""Maximum seconds between notes that a run was heard of."""


def _say_nothing(why: str) -> None:
    """Ignore that a host does not answer."""


def tell_silence(why: str) -> None:
    """Tell the user that a host does not answer."""
    print(f"warning: {why}; retrying for a minute", file=sys.stderr)


class Mirror:
    """Mirrors output of ranks on other machines in the local run directory, and records when it came."""

    def __init__(self, run: Run, ranks: Sequence[int]) -> None:
        self.run, self.ranks = run, ranks
        self._grown: dict[int, list[Grown]] = {}
        """Output that came and was not taken yet, by attempt."""

    def offsets(self) -> dict[str, int]:
        """Return the size of each local log file."""
        found = {}
        for attempt in self.run.attempts():
            for rank in self.ranks:
                for stream in ("out", "err"):
                    path = self.run.log(attempt, rank, stream)
                    if path.exists():
                        found[f"{attempt}/{rank}.{stream}"] = path.stat().st_size
        return found

    def put(self, rank: int, stream: str, attempt: int, offset: int, data: bytes) -> None:
        """Write a piece of a log file. Raises OSError, and `Malformed` for an invalid stream."""
        if stream not in ("out", "err"):
            raise Malformed(f"output of {stream!r}")
        name = str(self.run.log(attempt, rank, stream).relative_to(self.run.path))
        keep_piece(self.run, name, offset, data)
        self._grown.setdefault(attempt, []).append(Grown(time.time(), attempt, rank, stream, offset + len(data)))

    def take(self, attempt: int) -> list[Grown]:
        """Return what has come of this attempt since the last call."""
        return self._grown.pop(attempt, [])


class Follower:
    """Tracks whether a run continues. It may be called often: it asks only if the controller does not report by itself.

    A host that does not answer may come back: `lost_sight` is called with the reason, once each time, and the host is
    asked again for a minute before the run counts as `unknown`. `mirror` receives the output of its ranks, and `events`
    the events of the run, if its controller can be reached.
    """

    def __init__(
        self,
        run: Run,
        client: Client,
        lost_sight: Callable[[str], object] = _say_nothing,
        mirror: Mirror | None = None,
        events: Events | None = None,
    ) -> None:
        self.run, self.client, self.mirror, self.events = run, client, mirror, events
        self._lost_sight = lost_sight
        self._silent_since: float | None = None
        self._final: RunStatus | None = None
        self._past: bytes | None = None
        """The controller's record of a finished attempt, while a scheduler may start another one."""
        self._tried: bytes | None = None
        """The controller's record at the last attempt to reach it."""
        self._next_trial, self._trial_pause = 0.0, _LOOK

    def look(self, left: float = _LONG) -> RunStatus:
        """Return the current status of the run; the caller has `left` seconds. Raises `Unreadable`."""
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
        """Return whether to keep waiting for the end."""
        if found.state is not RunState.UNKNOWN or not self.run.job.get("served"):
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = time.monotonic()
            self._lost_sight(found.why)
        comes_back = self._silent_since is not None and time.monotonic() - self._silent_since < _COMES_BACK
        return comes_back or may_still_run(self.run, found.state)

    @property
    def silent(self) -> bool:
        """Whether the host does not answer."""
        return self._silent_since is not None

    def pause(self, seconds: float) -> None:
        """Wait for at most `seconds`, until there may be news.

        Polls sooner if nobody reports news, and later if the host is unresponsive.
        """
        if self.client.subscribed:
            self.client.pause(min(seconds, _LONG))
        else:
            self.client.pause(_PAUSE if self.silent else min(seconds, 0.25))

    def _subscribe(self, left: float) -> None:
        """Subscribe to the end of the run, if a controller can be reached."""
        job = self.run.job
        if not job.get("served") or is_anothers(self.run):
            return
        if not self.client.connected:  # the scheduler reported that it runs
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
            self.client.subscribe(events=self.events)
        else:
            self.client.subscribe(mirror.ranks, mirror.offsets(), mirror.put, self.events)

    def _ended(self, outcome: RunResult) -> RunStatus:
        """Handle the end reported by the controller: fetch the files over the same connection."""
        if self.client.keeps_files:
            self.client.sync_files(last=True)
            if self.run.outcome is None:
                self.run.write_outcome(outcome_as_json(outcome))
        self.client.close()
        return RunStatus(outcome.state, outcome=outcome)


class Waited(NamedTuple):
    """The result of waiting for the end of a run."""

    status: RunStatus
    in_time: bool
    """False if the timeout expired before the result was known."""


def wait(follower: Follower, timeout: float | None = None) -> Waited:
    """Wait until a run has ended, for at most `timeout` seconds (None: no limit)."""
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
