"""What `muster top` knows about a run at one moment, made from its events and the answers to requests. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from muster.core.progress import Progress, behind, least
from muster.core.results import RunResult, RunState, TextEnum


class RankState(TextEnum):
    """The state of a rank."""

    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TERMINATED = "terminated"
    """It exited after muster had signalled it."""
    LOST = "lost"
    """Its node is lost."""

    @property
    def ended(self) -> bool:
        """Whether it has exited."""
        return self not in (RankState.STARTING, RankState.RUNNING)


class RankUsage(NamedTuple):
    """What the agent of a rank measured last."""

    pid: int
    memory: int
    """Resident memory in bytes, including its descendants."""
    cpu: float
    """CPU usage in percent of a core, including its descendants."""
    groups: Mapping[str, int] = {}
    """The number of collectives that it has called, by process group."""
    progress: Progress | None = None
    """The step that it reported by `muster.progress`; None if it reports none."""


class RankView(NamedTuple):
    """One rank at one moment."""

    rank: int
    node: int
    state: RankState = RankState.STARTING
    how: str = ""
    """How it exited: `exit status 1`, `SIGKILL`."""
    usage: RankUsage | None = None
    """None if it is not known, or not any more."""
    silent: bool = False
    """True if the agent of its node does not answer."""
    behind: int = 0
    """The number of collectives by which it is behind the rank that is farthest."""
    steps_behind: int = 0
    """The number of steps by which it is behind that rank, if ranks report steps."""

    @property
    def notable(self) -> int:
        """How much it deserves attention: the larger, the more."""
        if self.state in (RankState.FAILED, RankState.LOST):
            return 3
        return 2 if self.silent else 1 if self.behind or self.steps_behind else 0


class Collectives(NamedTuple):
    """How far the ranks are in the process group that is busiest."""

    group: str
    called: int
    """The number of the last collective that any rank has called."""
    rate: float | None = None
    """Collectives per second since the last look; None at the first one."""


class Steps(NamedTuple):
    """How far the run is, in steps that all ranks have finished."""

    progress: Progress
    rate: float | None = None
    """Steps per second since they were first seen; None at the first look."""

    @property
    def left(self) -> float | None:
        """Seconds until the last step at this rate; None if that is not known."""
        total = self.progress.total
        return (total - self.progress.step) / self.rate if total is not None and self.rate else None


class Tail(NamedTuple):
    """The last lines of a rank."""

    rank: int
    lines: tuple[str, ...] = ()
    why: str = ""
    """Why they are not known."""


class TopView(NamedTuple):
    """A run at one moment."""

    run_id: str
    name: str
    state: RunState
    why: str
    """The reason for a state that is pending, unknown or lost."""
    seconds: float
    """How long it has existed."""
    hosts: tuple[str, ...] = ()
    """The names of its nodes; empty as long as there is no plan."""
    ranks: tuple[RankView, ...] = ()
    attempt: int = 0
    collectives: Collectives | None = None
    silent: tuple[str, ...] = ()
    """The hosts whose agents do not answer."""
    age: float = 0.0
    """Seconds since the last answer about the ranks."""
    problem: str = ""
    """Why there was no such answer now."""
    tail: Tail | None = None
    outcome: RunResult | None = None
    """The result, once the run has ended."""
    steps: Steps | None = None
    """How far it is, if its ranks report steps."""

    def host(self, node: int) -> str:
        """Return the name of a node."""
        return self.hosts[node] if 0 <= node < len(self.hosts) else f"node {node}"


class _Exit(NamedTuple):
    state: RankState
    how: str


_SIGNALS = {
    1: "SIGHUP",
    2: "SIGINT",
    3: "SIGQUIT",
    6: "SIGABRT",
    7: "SIGBUS",
    9: "SIGKILL",
    11: "SIGSEGV",
    15: "SIGTERM",
}


_AT_ONCE = 0.2
"""Seconds within which all ranks are measured: a rank may be behind by what the others did meanwhile."""


class RankTracker:
    """Follows the ranks of a run by its events, and by what their agents measure."""

    def __init__(self) -> None:
        self.attempt = 0
        self._started: set[int] = set()
        self._exits: dict[int, _Exit] = {}
        self._signalled: set[int] = set()
        self._lost: set[int] = set()
        self._usage: dict[int, RankUsage] = {}
        self._silent: frozenset[int] = frozenset()
        self._measured: tuple[float, dict[str, int]] | None = None
        """When it was measured last, and how far each process group was."""
        self._rates: dict[str, float] = {}
        self._first_step: tuple[float, int] | None = None
        """When a step was seen first, and which; the rate is that since then."""
        self._step_rate: float | None = None

    # ---- in ---------------------------------------------------------------------------------------------------------

    def event(self, event: Mapping[str, Any]) -> None:
        """Take in an event of events.jsonl. One that is malformed, or of a newer muster, is ignored."""
        try:
            self._event(str(event.get("event")), event)
        except (TypeError, ValueError, KeyError, AttributeError):
            pass

    def _event(self, kind: str, event: Mapping[str, Any]) -> None:
        if kind == "do start":
            self.attempt = int(event["attempt"])
            self._started, self._signalled, self._exits = set(), set(), {}
            self._usage, self._measured, self._rates = {}, None, {}
            self._first_step = self._step_rate = None
        elif kind == "pids":
            self._started.update(map(int, event["pids"]))
        elif kind == "joined":
            self._started.add(int(event["rank"]))
        elif kind == "do signal":
            self._signalled.update(int(rank) for rank in event["ranks"] if int(rank) not in self._exits)
        elif kind == "ended" and event.get("attempt", 0) == self.attempt:
            self._exits[int(event["rank"])] = self._exit(int(event["rank"]), event)
        elif kind == "lost":
            self._lost.add(int(event["node"]))

    def _exit(self, rank: int, event: Mapping[str, Any]) -> _Exit:
        number, code = event.get("signal"), event.get("code")
        how = _SIGNALS.get(number, f"signal {number}") if number is not None else f"exit status {code}"
        if code == 0:
            return _Exit(RankState.SUCCEEDED, how)
        return _Exit(RankState.TERMINATED if rank in self._signalled else RankState.FAILED, how)

    def measured(self, now: float, usage: Mapping[int, RankUsage], silent: Iterable[int] = ()) -> None:
        """Take in what the agents have measured: by rank; `silent`: the nodes without an answer."""
        self._usage, self._silent = dict(usage), frozenset(silent)
        self._measure_steps(now)
        farthest: dict[str, int] = {}
        for rank in usage.values():
            for group, called in rank.groups.items():
                farthest[group] = max(called, farthest.get(group, 0))
        before, self._measured = self._measured, (now, farthest)
        self._rates = {}
        if before is not None and now > before[0]:
            for group, called in farthest.items():
                if group in before[1]:
                    self._rates[group] = max(0, called - before[1][group]) / (now - before[0])

    def _measure_steps(self, now: float) -> None:
        far = least(use.progress for use in self._usage.values())
        if far is None:
            return
        if self._first_step is None or far.step < self._first_step[1]:
            self._first_step, self._step_rate = (now, far.step), None
        elif now > self._first_step[0]:
            self._step_rate = (far.step - self._first_step[1]) / (now - self._first_step[0])

    # ---- out --------------------------------------------------------------------------------------------------------

    def collectives(self) -> Collectives | None:
        """Return how far the ranks are; None if it is not known, or there were no collectives."""
        called = self._measured[1] if self._measured is not None else {}
        if not any(called.values()):
            return None
        group = max(called, key=lambda name: (self._rates.get(name, 0.0), called[name]))
        return Collectives(group, called[group], self._rates.get(group))

    def steps(self) -> Steps | None:
        """Return how far the run is in steps; None if no rank reports any."""
        far = least(use.progress for use in self._usage.values())
        return None if far is None else Steps(far, self._step_rate)

    def ranks(self, nodes: Sequence[Sequence[int]]) -> tuple[RankView, ...]:
        """Return all ranks, given the ranks of each node."""
        farthest = self.collectives()
        reported = {rank: use.progress for rank, use in self._usage.items() if use.progress is not None}
        late = behind(reported, self._step_rate)
        found = [
            self._rank(rank, node, farthest)._replace(steps_behind=late.get(rank, 0))
            for node, ranks in enumerate(nodes)
            for rank in ranks
        ]
        return tuple(sorted(found))

    def _rank(self, rank: int, node: int, farthest: Collectives | None) -> RankView:
        exited = self._exits.get(rank)
        if exited is not None:
            return RankView(rank, node, exited.state, exited.how)
        if node in self._lost:
            return RankView(rank, node, RankState.LOST)
        usage = self._usage.get(rank)
        state = RankState.RUNNING if rank in self._started or usage is not None else RankState.STARTING
        missed = 0
        if usage is not None and farthest is not None and farthest.rate is not None:
            missing = farthest.called - usage.groups.get(farthest.group, farthest.called)
            missed = missing if missing > farthest.rate * _AT_ONCE else 0
        return RankView(rank, node, state, "", usage, node in self._silent, missed)


def slowest(ranks: Sequence[RankView]) -> list[RankView]:
    """Return the ranks in the order in which they deserve attention: those that failed, then those behind."""

    def urgency(rank: RankView) -> tuple[int, int, float, int]:
        cpu = rank.usage.cpu if rank.usage is not None else 0.0
        return -rank.notable, -max(rank.behind, rank.steps_behind), -cpu, rank.rank

    return sorted(ranks, key=urgency)
