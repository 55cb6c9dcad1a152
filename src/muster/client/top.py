"""Watching a run for `muster top`: one connection, polled every two seconds at most."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from muster.client.client import Client, Events, ask
from muster.client.follow import Follower
from muster.client.reconcile import cancel
from muster.client.status import RunStatus
from muster.core.controller_config import RECORD
from muster.core.json_checks import Malformed, checked, number, several, table, text, whole
from muster.core.live_view import RankTracker, RankUsage, Tail, TopView
from muster.core.printable import line as safe
from muster.core.progress import Progress
from muster.core.results import RunState
from muster.errors import ControlError, MusterError, Unreachable
from muster.rundir.run import Run
from muster.schedulers import title
from muster.ui.terminal import last_state

_WITHIN = 8.0
"""Seconds for an answer about the ranks: agents measure for half a second, a controller waits for them for 4."""
_MEASURED = 0.5
"""Seconds for which agents measure."""
_EVERY, _SELDOM, _LONGEST = 2.0, 2.0, 10.0
"""Seconds between polls; while the run is in a queue, or nobody answers; and at most."""
_SLOWER = 8.0
"""How often the time that an answer takes fits between two polls."""
_LINES = 40
"""Number of last lines of each stream of a rank that are kept."""
_COLOR = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


class _Answer(NamedTuple):
    """What agents told about the ranks."""

    ranks: dict[int, RankUsage]
    silent: tuple[int, ...]
    """Nodes whose agent did not answer."""
    tail: Tail | None


class RunWatch:
    """Looks at a run again and again. `selected` is the rank whose last lines are wanted."""

    def __init__(self, run: Run, client: Client, clock: Callable[[], float] = time.monotonic) -> None:
        self.run, self.client, self._clock = run, client, clock
        self.selected = 0
        self._tracker = RankTracker()
        self._events = Events(self._event)
        self._follower = Follower(run, client, events=self._events)
        self._read = 0
        """How many bytes of events.jsonl were read, if it is here."""
        self._answered = clock()
        self._took = 0.0
        """Seconds that the last answer took, beyond the time of measuring."""
        self._tail: Tail | None = None
        self._silent: tuple[int, ...] = ()

    # ---- looking ----------------------------------------------------------------------------------------------------

    def look(self) -> TopView:
        """Return how the run is now. Raises `Unreadable`.

        Takes half a second, or some seconds if hosts do not answer.
        """
        outcome = self.client.outcome
        scheduled = self.run.scheduled
        if outcome is not None and (outcome.code == 0 or scheduled is None or not scheduled.requeue):
            # the files of the run are not fetched: they may be large, and the connection slow
            return self._view(RunStatus(outcome.state, outcome=outcome))
        found = self._follower.look()
        problem = ""
        if found.state is RunState.RUNNING:
            self._read_events()
            problem = self._ask()
        elif found.state is RunState.PENDING:
            found = found._replace(why=self._why_pending())
        elif found.state.ended:
            self._read_events()
        if self.client.outcome is not None and found.state is RunState.RUNNING:
            return self.look()  # it ended while it was asked
        return self._view(found, problem)

    def pause(self, view: TopView) -> float:
        """Return how long to wait before looking again."""
        if view.state is not RunState.RUNNING or view.problem:
            return _SELDOM
        return min(_LONGEST, max(_EVERY, _SLOWER * self._took))

    def wait(self, seconds: float) -> None:
        """Wait for at most so long; less if the end of the run is reported."""
        self.client.pause(seconds)

    def _view(self, found: RunStatus, problem: str = "") -> TopView:
        job, plan = self.run.job, self.run.plan
        nodes = [[rank.rank for rank in node.ranks] for node in plan.nodes] if plan is not None else []
        now = found.outcome.duration if found.outcome is not None else max(0.0, time.time() - float(job["time"]))
        hosts = plan.hosts if plan is not None else ()
        return TopView(
            self.run.id,
            str(job.get("name", "")),
            found.state,
            found.why,
            now,
            hosts,
            self._tracker.ranks(nodes),
            self._tracker.attempt,
            self._tracker.collectives(),
            tuple(hosts[node] if node < len(hosts) else f"node {node}" for node in self._silent),
            self._clock() - self._answered,
            problem,
            self._tail,
            found.outcome,
            self._tracker.steps(),
        )

    # ---- events -----------------------------------------------------------------------------------------------------

    def _event(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            return
        if isinstance(event, dict):
            self._tracker.event(event)

    def _read_events(self) -> None:
        """Read new events from the run directory, unless a controller sends them."""
        if self.client.subscribed or self.client.keeps_files:
            return
        try:
            with self.run.open_file("events.jsonl") as file:
                file.seek(self._read)
                whole_lines, newline, _ = file.read().rpartition(b"\n")
        except OSError:
            return
        self._read += len(whole_lines + newline)
        for count, line in enumerate(whole_lines.splitlines(), self._events.seen + 1):
            self._events.put(count, line)

    # ---- questions --------------------------------------------------------------------------------------------------

    def _ask(self) -> str:
        """Ask the agents about the ranks; return why there is no answer."""
        began = self._clock()
        try:
            answer = _answer(self._usage(), self.selected)
        except MusterError as error:
            self._took = self._clock() - began
            return error.sentence
        except Malformed as error:
            return f"invalid answer: {error}"
        self._answered = self._clock()
        self._took = max(0.0, self._answered - began - _MEASURED)
        self._silent = answer.silent
        self._tail = answer.tail or Tail(self.selected, why="its agent does not answer, or is of an earlier version")
        self._tracker.measured(self._answered, answer.ranks, answer.silent)
        return ""

    def _usage(self) -> dict[str, Any]:
        return ask(self.run, "usage", self.client, _WITHIN, progress=True, tail_of=self.selected)

    def _why_pending(self) -> str:
        """Return why the run is pending, in the words of its scheduler."""
        from muster.schedulers.client import client  # imported late: most runs have no scheduler

        scheduled = self.run.scheduled
        if scheduled is None:
            return ""
        asks = client(scheduled.name)
        found = asks.jobs(self.run.path.parents[1], float(self.run.job["time"]))
        seen = None if found is None else found.get(scheduled.job)
        why = f": {seen.why}" if seen is not None and seen.why else ""
        return f"{asks.title} job {scheduled.job} is pending{why}"

    def kill(self, by: str) -> str:
        """Stop the run, and return what was done. `by`: who stops it. Raises `MusterError`."""
        run, scheduled = self.run, self.run.scheduled
        queued = scheduled is not None and not scheduled.allocated
        if scheduled is not None and queued and run.read(RECORD) is None:
            cancel(run)
            return f"{title(scheduled.name)} job {scheduled.job} is cancelled"
        try:
            ask(run, "kill", self.client, by=by)
        except (ControlError, Unreachable):
            if scheduled is None or not queued:
                raise
            cancel(run)
            return f"{title(scheduled.name)} job {scheduled.job} is cancelled: its controller does not answer"
        return "terminating the ranks"


_STEP = {"step": whole, "steps": whole}
_USE = {"pid": whole, "memory": whole, "cpu": number, "children_memory": whole}
_GROUPS = {"groups": lambda value: {text(name): whole(count) for name, count in table(value).items()}}


def _answer(answer: Mapping[str, Any], selected: int) -> _Answer:
    """Parse an answer to `usage`. Raises `Malformed`."""
    ranks: dict[int, RankUsage] = {}
    tail: Tail | None = None
    for name, fields in table(answer.get("ranks")).items():
        if not (name.isascii() and name.isdigit() and len(name) < 10):
            raise Malformed(f"not a rank: {name!r}")
        use = table(fields)
        if "pid" in use:  # otherwise it has ended
            checked_use = checked(use, {**_USE, **_GROUPS, **_STEP}, tuple(_USE))
            memory = checked_use["memory"] + checked_use["children_memory"]
            groups = checked_use.get("groups", {})
            step = checked_use.get("step")
            far = None if step is None else Progress(step, checked_use.get("steps"))
            ranks[int(name)] = RankUsage(checked_use["pid"], memory, checked_use["cpu"], groups, far)
        if int(name) == selected and "tail" in use:
            tail = Tail(selected, _last_lines(table(use["tail"]), text(use.get("newer", ""))))
    return _Answer(ranks, several(whole)(answer.get("missing", ())), tail)


def _last_lines(texts: Mapping[str, Any], newer: str) -> tuple[str, ...]:
    """Return the last lines of stdout and stderr; those of the stream that was written last come last."""
    streams = sorted(("out", "err"), key=lambda stream: stream == newer)
    return tuple(line for stream in streams for line in _lines(str(texts.get(stream, "")))[-_LINES:])


def _lines(text: str) -> list[str]:
    """Return the lines of an output as a terminal would show them at last, without colors."""
    pieces = text.split("\n")
    if not pieces[-1]:
        del pieces[-1]
    return [safe(_COLOR.sub("", last_state(piece.encode(errors="replace")).decode()).expandtabs()) for piece in pieces]
