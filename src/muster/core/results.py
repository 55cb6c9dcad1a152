"""How runs and ranks end, as values. No sentence is made here; see `ui/reason_text.py`."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

SIGHUP, SIGINT, SIGQUIT, SIGKILL, SIGUSR1, SIGTERM = 1, 2, 3, 9, 10, 15
"""Signals by number, for those who touch no process."""


class TextEnum(str, Enum):
    """An enumeration whose members are texts: they are written, compared and formatted as their values."""

    def __str__(self) -> str:
        return str(self.value)


class RunState(TextEnum):
    """What became of a run, or what it does now."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    KILLED = "killed"
    TIMED_OUT = "timed out"
    BROKEN = "broken"
    """muster itself failed."""
    PENDING = "pending"
    """It waits in the queue of a scheduler."""
    RUNNING = "running"
    LOST = "lost"
    """It ended, and nobody wrote how."""
    UNKNOWN = "unknown"
    """Whoever knows does not answer. No answer is never an end."""
    UNREADABLE = "unreadable"
    """Files of the run are damaged."""

    @property
    def lives(self) -> bool:
        """It runs, or is going to."""
        return self in (RunState.PENDING, RunState.RUNNING)

    @property
    def ended(self) -> bool:
        """It has an outcome."""
        return self in _ENDED


_ENDED = frozenset(
    (
        *(RunState.SUCCEEDED, RunState.FAILED, RunState.INTERRUPTED),
        *(RunState.KILLED, RunState.TIMED_OUT, RunState.BROKEN),
    )
)


class FailureKind(TextEnum):
    """Why a rank failed, as far as its own words tell."""

    EXCEPTION = "raised"
    """A Python exception of its own."""
    PEER_LOST = "lost peer"
    """It fell because another rank was gone."""
    EXIT = "ended"
    """It told of no exception."""
    NEVER_REGISTERED = "never joined"
    """The launcher that was to start it has ended before it said who it is."""


class Failure(NamedTuple):
    """Why a rank failed."""

    kind: FailureKind
    when: float
    """Seconds since the run began at which the first word of it was seen."""
    summary: str = ""
    """The last line of its traceback or of its stderr."""
    frames: tuple[str, ...] = ()
    """The last lines that it printed about it, unaltered."""


class RankExit(NamedTuple):
    """How one rank ended."""

    rank: int
    node: int
    when: float
    """Seconds since the run began."""
    code: int | None = None
    """Its exit status, when it exited."""
    signal: int | None = None
    """The signal that ended it, when one did."""
    by_us: bool = False
    """It ended after muster had asked it to, and as that explains."""
    failure: Failure | None = None
    by_launcher: bool = False
    """It ended because the launcher that started it asked it to, as launchers do when another rank has failed."""
    late: bool = False
    """It ended after it had been asked to, but of something else: a crash, or a signal that nobody here sent."""

    @property
    def ok(self) -> bool:
        """It exited with status 0."""
        return self.code == 0

    @property
    def status(self) -> int:
        """As a shell tells it: the exit status, or 128 + the signal."""
        return 128 + self.signal if self.signal is not None else int(self.code or 0)


class Unlogged(NamedTuple):
    """What the log of a rank lacks, because it could not be written."""

    attempt: int
    rank: int
    stream: str
    """`out` or `err`."""
    missing: int
    """Bytes."""
    why: str
    """The error, in words."""


class Leftover(NamedTuple):
    """A process that a rank left behind."""

    process: str
    """The beginning of its command line, or its name."""
    pid: int = 0
    """0 where an older version has not told."""
    state: str = ""
    """What it was doing, as a letter (proc_pid_stat(5)): `D` waits in the kernel, `T` is stopped."""
    gpu: bool = False
    """It has a GPU open, and so, as a rule, some of its memory."""
    killed: bool = False
    """muster ended it; it still lives otherwise."""


class LostNode(NamedTuple):
    """A node whose agent is gone for good, so that nobody saw its ranks end."""

    node: int
    why: str


class ProblemKind(TextEnum):
    """What keeps agents from starting their ranks."""

    NO_TORCH = "no torch"
    OLD_TORCH = "old torch"
    IMPORT = "import"
    FORK = "fork"
    FORK_SERVER = "warm"
    """The warm interpreter ended."""
    LAUNCHER = "launcher"
    RANK = "start"
    PROTOCOL = "protocol"
    """The agent is one of another version."""
    VERSIONS = "versions"
    """Hosts have different ones of something."""
    OTHER = "other"
    """An older version has told of it, in words."""


class Problem(NamedTuple):
    """Why the agents of these hosts cannot start their ranks. Which fields are set depends on the kind."""

    kind: ProblemKind
    hosts: tuple[str, ...]
    among_others: bool = False
    """The run has more hosts than one, so that these must be named."""
    python: str = ""
    """The interpreter of the ranks."""
    version: str = ""
    """That of the interpreter, or of the protocol that an agent speaks."""
    needed: str = ""
    """The version that is needed."""
    torch: str = ""
    """The version of torch that is there."""
    module: str = ""
    """What cannot be imported."""
    missing: bool = False
    """There is no such module."""
    name: str = ""
    """Of a launcher, or of what differs."""
    rank: int = 0
    number: int = 0
    """Of ranks that could be forked."""
    code: int | None = None
    signal: int | None = None
    text: str = ""
    """What the system, or Python, said."""
    limit: bool = False
    """The user may have no more processes."""
    values: tuple[tuple[str, str], ...] = ()
    """(host, version) where these differ."""


class StopKind(TextEnum):
    """What ends a run other than the end of its ranks."""

    SIGNAL = "signal"
    """muster was sent one."""
    KILL = "kill"
    """`muster kill`."""
    OWNER_GONE = "owner gone"
    """The terminal that started it was not heard of for its lease."""
    TIMEOUT = "timeout"
    STORE = "store"
    """The process that keeps the store ended."""
    PROBLEM = "problem"
    """Ranks cannot be started."""
    NODE_LOST = "node lost"
    SCHEDULER = "scheduler"
    """A scheduler ends the job."""
    OTHER = "other"
    """Somebody else tells why, in words."""


class StopReason(NamedTuple):
    """Why a run was ended. Which fields are set depends on the kind; `reason_text.reason_in_words` tells a person."""

    kind: StopKind
    signal: int | None = None
    again: bool = False
    """Then Ctrl-C was pressed, or pressed again."""
    by: str = ""
    """Who asked for it."""
    seconds: float = 0.0
    """The time that is over."""
    code: int | None = None
    log: str = ""
    """A file that tells more."""
    problems: tuple[Problem, ...] = ()
    node: int | None = None
    cause: str = ""
    """Why a scheduler ends the job: a key of `JOB_ENDS`."""
    early: bool = False
    """All ranks that were told of that ended before it came to it."""
    message: str = ""
    """The words of somebody else, or of an older version."""
    hint: str = ""


class RunResult(NamedTuple):
    """How a run ended. The file `outcome.json` of the run directory is this, and the reason in words."""

    state: RunState
    """One that is `ended`."""
    code: int
    """The exit status of `muster run`."""
    duration: float
    """Seconds from the start of muster to the last end."""
    attempt: int = 0
    """The number of the last attempt, from 0."""
    stopped: StopReason | None = None
    """What began the end, when no rank did."""
    first: RankExit | None = None
    """The rank that failed first."""
    ends: tuple[RankExit, ...] = ()
    """How each rank of the last attempt ended, by rank."""
    left: tuple[Leftover, ...] = ()
    """Processes that ranks had left behind and that were ended after a success, or that still live."""
    lost: tuple[LostNode, ...] = ()
    """Nodes that were lost, but for the one whose loss ended the run."""
    unlogged: tuple[Unlogged, ...] = ()
    """Output that is not in the logs, of all attempts."""
