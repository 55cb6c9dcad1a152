"""What happens in a run, and what is to be done about it: events, actions, and how events.jsonl has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Union, get_args

from muster.core.json_records import failure_from_json, leftover_from_json, problem_from_json
from muster.core.results import (
    Failure,
    Leftover,
    Problem,
    ProblemKind,
    RankExit,
    RunResult,
    RunState,
    StopReason,
)

# ---- events: what happened; `t` is in seconds since the run began ---------------------------------------------------


@dataclass(frozen=True)
class Configured:
    """The agent of node 0 has its part of the plan, and so can open the port of the first attempt's store."""

    t: float


@dataclass(frozen=True)
class AgentReady:
    """An agent can start ranks."""

    t: float
    node: int


@dataclass(frozen=True)
class StoreOpened:
    """Node 0 has opened the port of an attempt's store."""

    t: float
    attempt: int
    port: int


@dataclass(frozen=True)
class RanksStarted:
    """All ranks of a node have been started."""

    t: float
    node: int
    attempt: int


@dataclass(frozen=True)
class RankExited:
    """A rank has ended."""

    t: float
    rank: int
    attempt: int
    code: int | None = None
    signal: int | None = None
    failure: Failure | None = None
    asked_by_launcher: float | None = None
    """When the launcher that started it asked it to end."""


@dataclass(frozen=True)
class StoreDied:
    """The keeper of the store has ended although it should not."""

    t: float
    code: int | None = None
    signal: int | None = None
    log: str = ""


@dataclass(frozen=True)
class StartFailed:
    """Agents cannot start their ranks, the one of this node among them."""

    t: float
    node: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class NodeLost:
    """The connection to an agent has ended."""

    t: float
    node: int
    why: str


@dataclass(frozen=True)
class CleanedUp:
    """Nothing of the attempt is left on a node, but for what `left` says. `ended`: what the agent had to end."""

    t: float
    node: int
    ended: tuple[Leftover, ...] = ()
    left: tuple[Leftover, ...] = ()


@dataclass(frozen=True)
class LogIncomplete:
    """The log of a rank lacks so many bytes by now, because it could not be written."""

    t: float
    node: int
    attempt: int
    rank: int
    stream: str
    missing: int
    why: str


@dataclass(frozen=True)
class StopRequested:
    """A person, or whoever started muster, wants the end: a signal to muster, or `muster kill` (signal 0)."""

    t: float
    signal: int
    by: str = ""
    gone_for: float | None = None
    """Seconds for which nothing was heard of the terminal that is to be there; then nobody has said anything."""


@dataclass(frozen=True)
class PreemptionWarned:
    """These ranks were told, by a signal that they catch, that a scheduler is about to end the job; see `JOB_ENDS`."""

    t: float
    cause: str
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class JobEnding:
    """A scheduler ends the job, for a cause of `JOB_ENDS`, and kills what still lives after `within` seconds."""

    t: float
    cause: str
    within: float


@dataclass(frozen=True)
class Tick:
    """Time has passed."""

    t: float


JOB_ENDS: Mapping[str, tuple[RunState, int]] = {
    "time limit": (RunState.TIMED_OUT, 124),
    "cancelled": (RunState.KILLED, 137),
    "preempted": (RunState.KILLED, 137),
    "requeued": (RunState.KILLED, 137),
    "node failure": (RunState.BROKEN, 125),
}
"""Why a scheduler ends a job: the state of the run, and its exit status."""

Event = Union[
    Configured,
    AgentReady,
    StoreOpened,
    RanksStarted,
    RankExited,
    StoreDied,
    StartFailed,
    NodeLost,
    CleanedUp,
    LogIncomplete,
    StopRequested,
    PreemptionWarned,
    JobEnding,
    Tick,
]


def event_from_json(data: Mapping[str, Any]) -> Event:
    """Read back an event that was written down, perhaps by an older version. Raises `Malformed`, TypeError."""
    fields = {name: value for name, value in data.items() if name != "event"}
    if fields.get("failure") is not None:
        fields["failure"] = failure_from_json(fields["failure"])
    for name, read in (("ended", leftover_from_json), ("left", leftover_from_json), ("problems", problem_from_json)):
        if name in fields:
            fields[name] = tuple(map(read, fields[name]))
    if "ranks" in fields:
        fields["ranks"] = tuple(fields["ranks"])
    kind = EVENTS[data["event"]]
    if kind is StartFailed and "why" in fields:
        fields["problems"] = (Problem(ProblemKind.OTHER, (), text=fields.pop("why").partition("\n")[0]),)
    elif kind is StoreDied:
        fields.pop("how", None)
    event: Event = kind(**fields)
    return event


# ---- actions: what the controller is to do --------------------------------------------------------------------------


@dataclass(frozen=True)
class OpenStore:
    """Have node 0 open the port of this attempt's store."""

    attempt: int


@dataclass(frozen=True)
class StartRanks:
    """Have all agents start their ranks."""

    attempt: int
    port: int


@dataclass(frozen=True)
class SignalRanks:
    """Send a signal to these ranks; SIGQUIT to those that catch it, and SIGTERM to the others.

    torchrun passes SIGQUIT on to all, of which a rank without a handler dies with a core file.
    """

    number: int
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class CleanUp:
    """Have all agents end what is left, after so many seconds in which it may end by itself."""

    patience: float


@dataclass(frozen=True)
class Escalating:
    """Tell the person that ranks are asked to end, or are killed, because of this; what follows after `wait` seconds is
    harder."""

    number: int
    ranks: tuple[int, ...]
    wait: float
    reason: StopReason | None


@dataclass(frozen=True)
class Restarting:
    """Tell the person that all ranks are started again, for this cause."""

    first: RankExit | None
    """The end of the rank that failed first."""
    reason: StopReason | None
    restart: int
    restarts: int
    """How many there may be."""


@dataclass(frozen=True)
class Hurrying:
    """Tell the person that what ranks left behind is not waited for any more."""


@dataclass(frozen=True)
class Finish:
    """It is over."""

    outcome: RunResult


Notice = Union[Escalating, Restarting, Hurrying]
"""What the person is told; `reason_text.notice_in_words` says it."""

NOTICES = (Escalating, Restarting, Hurrying)

Action = Union[OpenStore, StartRanks, SignalRanks, CleanUp, Finish, Notice]


NAMES: Mapping[type[Any], str] = {
    Configured: "configured",
    AgentReady: "ready",
    StoreOpened: "listening",
    RanksStarted: "started",
    RankExited: "ended",
    StoreDied: "storeended",
    StartFailed: "unable",
    NodeLost: "lost",
    CleanedUp: "swept",
    LogIncomplete: "lacks",
    StopRequested: "asked",
    PreemptionWarned: "warned",
    JobEnding: "jobends",
    Tick: "tick",
    OpenStore: "listen",
    StartRanks: "start",
    SignalRanks: "signal",
    CleanUp: "sweep",
    Finish: "finish",
    Escalating: "escalating",
    Restarting: "restarting",
    Hurrying: "hurrying",
}
"""The names of events and actions in events.jsonl. They stay as they are: scripts read that file, and so does the
controller that goes on with a run of an earlier version."""

EVENTS: Mapping[str, type[Any]] = {NAMES[kind]: kind for kind in get_args(Event)}
"""By the name under which they stand in events.jsonl."""
