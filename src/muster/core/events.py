"""The events of a run, the actions that follow from them, and their representation in events.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Union, get_args

from muster.core.json_records import (
    facts_from_json,
    failure_from_json,
    leftover_from_json,
    problem_from_json,
    usage_from_json,
)
from muster.core.results import (
    ExitFacts,
    Failure,
    Leftover,
    OnHang,
    Problem,
    ProblemKind,
    RankExit,
    RankUsage,
    RunResult,
    RunState,
    StopReason,
)

# ---- events; `t` is in seconds since the start of the run ------------------------------------------------------------


@dataclass(frozen=True)
class Configured:
    """The agent of node 0 is configured, and can open the port of the first attempt's store."""

    t: float


@dataclass(frozen=True)
class AgentReady:
    """An agent is ready to start ranks."""

    t: float
    node: int


@dataclass(frozen=True)
class StoreOpened:
    """Node 0, or the first node of a role, has opened the port of an attempt's store."""

    t: float
    attempt: int
    port: int
    node: int = 0
    free: int = 0
    """Another port that is free on that node, for the programs of a role."""


@dataclass(frozen=True)
class RanksStarted:
    """All ranks of a node have been started."""

    t: float
    node: int
    attempt: int


@dataclass(frozen=True)
class RankExited:
    """A rank has exited."""

    t: float
    rank: int
    attempt: int
    code: int | None = None
    signal: int | None = None
    failure: Failure | None = None
    asked_by_launcher: float | None = None
    """When the launcher that started it signalled it to exit."""
    usage: RankUsage | None = None
    facts: ExitFacts | None = None
    notes: tuple[str, ...] = ()
    """What else its output tells."""


@dataclass(frozen=True)
class RanksMissed:
    """The other ranks waited for these, as an inspection at the first failure of an attempt shows."""

    t: float
    attempt: int
    ranks: tuple[int, ...]
    words: str
    """The verdict, in words."""
    place: str = ""
    """Where the first of these ranks is: `train.py:21 in check`."""


@dataclass(frozen=True)
class StoreDied:
    """The store process has exited unexpectedly."""

    t: float
    code: int | None = None
    signal: int | None = None
    log: str = ""


@dataclass(frozen=True)
class StartFailed:
    """Agents cannot start their ranks, including that of this node."""

    t: float
    node: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class NodeLost:
    """The connection to an agent is lost for good."""

    t: float
    node: int
    why: str


@dataclass(frozen=True)
class SpareLost:
    """A spare host is lost, so that it can take nobody's place. Spares are numbered after the nodes."""

    t: float
    spare: int
    why: str


@dataclass(frozen=True)
class CleanedUp:
    """A node is cleaned up, except for the processes in `left`. `ended`: processes that the agent had to kill."""

    t: float
    node: int
    ended: tuple[Leftover, ...] = ()
    left: tuple[Leftover, ...] = ()


@dataclass(frozen=True)
class LogIncomplete:
    """The log of a rank is missing this many bytes by now, because they could not be written."""

    t: float
    node: int
    attempt: int
    rank: int
    stream: str
    missing: int
    why: str


@dataclass(frozen=True)
class StopRequested:
    """A user, or muster's parent program, wants to stop the run: by a signal, or by `muster kill` (signal 0)."""

    t: float
    signal: int
    by: str = ""
    gone_for: float | None = None
    """Seconds since the owner's terminal was last heard of, or since the last run on a session, if that is the reason;
    then nobody requested the stop."""
    released: bool = False
    """True if a session is to end, which is a success."""


@dataclass(frozen=True)
class PreemptionWarned:
    """These ranks got a signal they handle, as a warning that the scheduler will end the job; see `JOB_ENDS`."""

    t: float
    cause: str
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class JobEnding:
    """A scheduler ends the job, for a cause in `JOB_ENDS`, and kills remaining processes after `within` seconds."""

    t: float
    cause: str
    within: float


@dataclass(frozen=True)
class HangDetected:
    """No rank of the attempt has made progress for this many seconds."""

    t: float
    attempt: int
    seconds: float
    verdict: tuple[str, ...] = ()
    """Why, in lines for the user; empty if it is not known."""


@dataclass(frozen=True)
class Tick:
    """Time has passed."""

    t: float


JOB_ENDS: Mapping[str, tuple[RunState, int]] = {
    "time limit": (RunState.TIMED_OUT, 124),
    "cancelled": (RunState.KILLED, 137),
    "preempted": (RunState.KILLED, 137),
    "requeued": (RunState.KILLED, 137),
    "node failure": (RunState.ERROR, 125),
}
"""Why a scheduler ends a job: the resulting state and exit code of the run."""

Event = Union[
    Configured,
    AgentReady,
    StoreOpened,
    RanksStarted,
    RankExited,
    RanksMissed,
    StoreDied,
    StartFailed,
    NodeLost,
    SpareLost,
    CleanedUp,
    LogIncomplete,
    StopRequested,
    PreemptionWarned,
    JobEnding,
    HangDetected,
    Tick,
]


def event_from_json(data: Mapping[str, Any]) -> Event:
    """Parse a recorded event, possibly from an older version. Raises `Malformed`, TypeError."""
    fields = {name: value for name, value in data.items() if name != "event"}
    for name, parse in (("failure", failure_from_json), ("usage", usage_from_json), ("facts", facts_from_json)):
        if fields.get(name) is not None:
            fields[name] = parse(fields[name])
    for name, read in (("ended", leftover_from_json), ("left", leftover_from_json), ("problems", problem_from_json)):
        if name in fields:
            fields[name] = tuple(map(read, fields[name]))
    for name in ("ranks", "notes", "verdict"):
        if name in fields:
            fields[name] = tuple(fields[name])
    kind = EVENTS[data["event"]]
    if kind is StartFailed and "why" in fields:
        fields["problems"] = (Problem(ProblemKind.OTHER, (), text=fields.pop("why").partition("\n")[0]),)
    elif kind is StoreDied:
        fields.pop("how", None)
    event: Event = kind(**fields)
    return event


# ---- actions of the controller ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OpenStore:
    """Have node 0, or the first node of each role, open the port of this attempt's store."""

    attempt: int


@dataclass(frozen=True)
class StartRanks:
    """Have all agents start their ranks."""

    attempt: int
    port: int


@dataclass(frozen=True)
class SignalRanks:
    """Send a signal to these ranks; SIGQUIT goes to those that handle it, and SIGTERM to the others.

    torchrun forwards SIGQUIT to all, and a rank without a handler dies with a core dump.
    """

    number: int
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Replace:
    """Have a spare host take the place of a lost node, and prepare to start the ranks of that node."""

    node: int
    spare: int
    why: str


@dataclass(frozen=True)
class CleanUp:
    """Have all agents kill leftover processes, after waiting `patience` seconds for them to exit."""

    patience: float


@dataclass(frozen=True)
class Escalating:
    """Tell the user that ranks are being signalled or killed; the next signal follows after `wait` seconds."""

    number: int
    ranks: tuple[int, ...]
    wait: float
    reason: StopReason | None


@dataclass(frozen=True)
class Restarting:
    """Tell the user that all ranks are restarted, for this reason."""

    first: RankExit | None
    """The exit of the rank that failed first."""
    reason: StopReason | None
    restart: int
    restarts: int
    """The maximum number of restarts."""
    delay: float = 0.0
    """Seconds until the restart."""


@dataclass(frozen=True)
class Hanging:
    """Tell the user that no rank makes progress, and what is done about it."""

    seconds: float
    verdict: tuple[str, ...]
    on_hang: OnHang


@dataclass(frozen=True)
class Hurrying:
    """Tell the user that leftover processes are no longer waited for."""


@dataclass(frozen=True)
class Finish:
    """Finish the run."""

    outcome: RunResult


Notice = Union[Escalating, Restarting, Hanging, Hurrying]
"""Messages to the user, worded by `reason_text.notice_in_words`."""

NOTICES = (Escalating, Restarting, Hanging, Hurrying)

Action = Union[OpenStore, StartRanks, SignalRanks, Replace, CleanUp, Finish, Notice]


NAMES: Mapping[type[Any], str] = {
    Configured: "configured",
    AgentReady: "ready",
    StoreOpened: "listening",
    RanksStarted: "started",
    RankExited: "ended",
    RanksMissed: "missed",
    StoreDied: "storeended",
    StartFailed: "unable",
    NodeLost: "lost",
    SpareLost: "spare lost",
    CleanedUp: "swept",
    LogIncomplete: "lacks",
    StopRequested: "asked",
    PreemptionWarned: "warned",
    JobEnding: "jobends",
    HangDetected: "hang",
    Tick: "tick",
    OpenStore: "listen",
    StartRanks: "start",
    SignalRanks: "signal",
    Replace: "replace",
    CleanUp: "sweep",
    Finish: "finish",
    Escalating: "escalating",
    Restarting: "restarting",
    Hanging: "hanging",
    Hurrying: "hurrying",
}
"""The names of events and actions in events.jsonl. They are stable: scripts read that file, and so does a controller
that continues a run of an earlier version."""

EVENTS: Mapping[str, type[Any]] = {NAMES[kind]: kind for kind in get_args(Event)}
"""Event types by their name in events.jsonl."""
