"""The results of runs and ranks, as values. They are worded in `ui/reason_text.py`."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

SIGHUP, SIGINT, SIGQUIT, SIGABRT, SIGKILL, SIGUSR1, SIGTERM = 1, 2, 3, 6, 9, 10, 15
"""Signal numbers, for modules that must not import `signal`."""


class TextEnum(str, Enum):
    """An enumeration of texts, whose members are written, compared and formatted as their values."""

    def __str__(self) -> str:
        return str(self.value)


class RunState(TextEnum):
    """The state of a run."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    KILLED = "killed"
    TIMED_OUT = "timed out"
    ERROR = "error"
    """muster itself failed."""
    PENDING = "pending"
    """It waits in a scheduler's queue."""
    RUNNING = "running"
    HELD = "held"
    """It is a session, which waits for runs or has one."""
    LOST = "lost"
    """It has ended, and no result was recorded."""
    UNKNOWN = "unknown"
    """Whoever knows its state does not answer. No answer never means that it has ended."""
    UNREADABLE = "unreadable"
    """Its files are damaged."""

    @property
    def lives(self) -> bool:
        """Whether it is running or pending."""
        return self in (RunState.PENDING, RunState.RUNNING, RunState.HELD)

    @property
    def ended(self) -> bool:
        """Whether it has a result."""
        return self in _ENDED


_ENDED = frozenset(
    (
        *(RunState.SUCCEEDED, RunState.FAILED, RunState.INTERRUPTED),
        *(RunState.KILLED, RunState.TIMED_OUT, RunState.ERROR),
    )
)


class FailureKind(TextEnum):
    """The kind of a rank's failure, as far as its output and its site hook show."""

    EXCEPTION = "raised"
    """A Python exception of its own."""
    PEER_LOST = "lost peer"
    """It failed because another rank was gone."""
    TIMED_OUT = "timed out"
    """It waited for another rank in vain."""
    NO_CONNECTION = "no connection"
    """It could not connect to the rendezvous."""
    MISMATCH = "mismatch"
    """The ranks called different collectives, or with different tensors."""
    ABSENT = "absent"
    """It did not come to where other ranks waited, which then failed."""
    EXIT = "ended"
    """It reported no exception."""
    NEVER_REGISTERED = "never joined"
    """The launcher that was to start it has exited before it registered."""


class Failure(NamedTuple):
    """The failure of a rank."""

    kind: FailureKind
    when: float
    """When the first line about it was seen, in seconds since the start of the run."""
    summary: str = ""
    """The last line of its traceback or of its stderr."""
    frames: tuple[str, ...] = ()
    """The last lines of its output about it, unchanged."""
    place: str = ""
    """The line of the user's code: `train.py:21 in check`; empty if unknown."""
    proven: bool = True
    """False if the exception may have been handled. Older versions did not distinguish."""
    blames: tuple[int, ...] = ()
    """The ranks that its own message names as missing; for an absent rank, the others that did not come."""
    own_before: str = ""
    """An exception of the rank's own that was replaced when a peer was lost, or that was handled before."""


class RankUsage(NamedTuple):
    """What a rank has used until its exit, as the kernel counted it."""

    peak_memory: int = 0
    """Highest resident memory (RSS) in bytes: of its process, or of a descendant it waited for if that had more."""
    user: float = 0.0
    """CPU time of its process in user mode, in seconds."""
    system: float = 0.0
    """CPU time of its process in the kernel."""
    children_cpu: float = 0.0
    """CPU time of its descendants, as far as they were waited for."""
    minor_faults: int = 0
    """Page faults of its process that needed no I/O."""
    major_faults: int = 0
    """Page faults of its process that waited for a disk."""
    voluntary_switches: int = 0
    """How often it gave up a core, to wait for something; with descendants."""
    involuntary_switches: int = 0
    """How often it lost a core to another process; with descendants."""
    read: int = 0
    """Bytes read from disks, with descendants."""
    written: int = 0
    """Bytes written to disks, with descendants."""
    children_peak: int = 0
    """Highest memory of its descendants together, in bytes, of samples that were taken while it ran."""
    io_wait: float | None = None
    """Seconds that its threads waited for block I/O; None where the kernel does not count it."""
    core_wait: float | None = None
    """Seconds that its main thread was ready and waited for a core; None where the kernel does not count it."""
    step: int | None = None
    """The last step that it reported by `muster.progress`; None for none."""
    steps: int | None = None
    """The number of steps, as it reported it."""


class MemoryCgroup(NamedTuple):
    """A memory cgroup in which a rank ran, right after its exit."""

    path: str
    limit: int = 0
    """In bytes; 0 for none."""
    used: int = 0
    peak: int = 0
    """Highest usage since it was created; 0 if unknown."""
    kills: int | None = None
    """Processes in it that an OOM killer has killed at that time; None if unknown."""
    hits: int | None = None
    """How often its own limit was reached at that time; None if unknown."""


class DiskSpace(NamedTuple):
    """The space of a file system, in bytes."""

    path: str
    size: int
    free: int


class ResourceLimit(NamedTuple):
    """A resource limit, by the name of setrlimit(2) in lower case: `cpu`, `fsize`, `as`; in its units."""

    name: str
    soft: int | None
    """None for no limit."""
    hard: int | None


class ExitFacts(NamedTuple):
    """What the kernel counted, logged and allowed, around the failure of a rank. `diagnostics/deaths.py` concludes."""

    pid: int = 0
    cgroups: tuple[MemoryCgroup, ...] = ()
    """That of the rank first, then those above it; empty if unknown."""
    machine_kills: int | None = None
    """Processes that the OOM killer has killed on the whole machine at that time; None if unknown."""
    machine_memory: tuple[int, ...] = ()
    """The machine's memory in bytes: all, and what was available; empty if unknown."""
    kernel_log: bool = False
    """True if the kernel log could be read."""
    kernel: tuple[str, ...] = ()
    """Its lines that may be about it."""
    limits: tuple[ResourceLimit, ...] = ()
    """The resource limits of its process, without unlimited ones."""
    full: tuple[DiskSpace, ...] = ()
    """Local file systems without free space."""
    shm: DiskSpace | None = None
    """The space of /dev/shm."""


class RankExit(NamedTuple):
    """The exit of one rank."""

    rank: int
    node: int
    when: float
    """Seconds since the start of the run."""
    code: int | None = None
    """Its exit code, if it exited."""
    signal: int | None = None
    """The signal that killed it, if one did."""
    by_muster: bool = False
    """True if it exited because muster had signalled it."""
    failure: Failure | None = None
    by_launcher: bool = False
    """True if it exited because its launcher signalled it, as launchers do after another rank has failed."""
    late: bool = False
    """True if it was signalled, but exited for another reason: a crash, or a signal that muster did not send."""
    usage: RankUsage | None = None
    """What it used; None if unknown."""
    facts: ExitFacts | None = None
    """What the kernel knows of its failure; None if it was not asked."""
    notes: tuple[str, ...] = ()
    """What else its output tells, such as a loss that is NaN."""

    @property
    def ok(self) -> bool:
        """Whether it exited with code 0."""
        return self.code == 0

    @property
    def status(self) -> int:
        """The exit status as in a shell: the exit code, or 128 + the signal."""
        return 128 + self.signal if self.signal is not None else int(self.code or 0)


class Unlogged(NamedTuple):
    """Output that is missing in the log of a rank, because it could not be written."""

    attempt: int
    rank: int
    stream: str
    """`out` or `err`."""
    missing: int
    """In bytes."""
    why: str
    """The error message."""


class Leftover(NamedTuple):
    """A process that a rank left behind."""

    process: str
    """The start of its command line, or its name."""
    pid: int = 0
    """0 if an older version did not record it."""
    state: str = ""
    """Its state, as a letter (proc_pid_stat(5)): `D` waits in the kernel, `T` is stopped."""
    gpu: bool = False
    """True if it has a GPU device open, and so usually some of its memory."""
    killed: bool = False
    """True if muster killed it; otherwise it is still alive."""


class LostNode(NamedTuple):
    """A node whose agent is gone for good, so that the end of its ranks was not observed."""

    node: int
    why: str


class ProblemKind(TextEnum):
    """Why agents cannot start their ranks."""

    NO_TORCH = "no torch"
    OLD_TORCH = "old torch"
    IMPORT = "import"
    FORK = "fork"
    FORK_SERVER = "warm"
    """The fork server exited."""
    LAUNCHER = "launcher"
    RANK = "start"
    PORT = "port"
    """A port of the rendezvous cannot be opened."""
    PROTOCOL = "protocol"
    """The agent has another protocol version."""
    VERSIONS = "versions"
    """Versions differ between hosts."""
    OTHER = "other"
    """A sentence recorded by an older version."""


class Problem(NamedTuple):
    """Why the agents of these hosts cannot start their ranks. The fields that are set depend on the kind."""

    kind: ProblemKind
    hosts: tuple[str, ...]
    among_others: bool = False
    """True if the run has other hosts too, so that these must be named."""
    python: str = ""
    """The interpreter of the ranks."""
    version: str = ""
    """The version of the interpreter, or of the agent's protocol."""
    needed: str = ""
    """The required version."""
    torch: str = ""
    """The installed version of torch."""
    module: str = ""
    """The module that cannot be imported."""
    missing: bool = False
    """True if the module does not exist."""
    name: str = ""
    """The name of a launcher, or of what differs."""
    rank: int = 0
    number: int = 0
    """The number of ranks that could be forked."""
    code: int | None = None
    signal: int | None = None
    text: str = ""
    """The message of the system, or of Python."""
    limit: bool = False
    """True if the user's process limit was reached."""
    values: tuple[tuple[str, str], ...] = ()
    """(host, version) pairs, if versions differ."""


class OnHang(TextEnum):
    """What is done when no rank makes progress: the values of --on-hang."""

    WARN = "warn"
    KILL = "kill"
    """Terminate the run."""
    RESTART = "restart"
    """Terminate the attempt as after a failure, which --max-restarts may repeat."""


class StopKind(TextEnum):
    """A cause that ends a run, other than the exit of its ranks."""

    SIGNAL = "signal"
    """muster received a signal."""
    KILL = "kill"
    """`muster kill`."""
    OWNER_GONE = "owner gone"
    """The program that started it has ended, or was not heard of for as long as the lease."""
    TIMEOUT = "timeout"
    STORE = "store"
    """The store process exited."""
    PROBLEM = "problem"
    """Ranks cannot be started."""
    NODE_LOST = "node lost"
    SCHEDULER = "scheduler"
    """A scheduler ends the job."""
    HANG = "hang"
    """No rank made progress for the time of --hang-timeout."""
    MAIN_ROLE = "main role"
    """All ranks of the main role have succeeded, and others were still running."""
    RELEASED = "released"
    """A session was released, or was idle for `seconds`."""
    OTHER = "other"
    """A sentence from elsewhere."""


class StopReason(NamedTuple):
    """Why a run was stopped; worded by `reason_text.reason_in_words`. The fields that are set depend on the kind."""

    kind: StopKind
    signal: int | None = None
    again: bool = False
    """True if Ctrl-C was pressed (again) after that."""
    by: str = ""
    """Who requested it."""
    seconds: float = 0.0
    """The expired time."""
    code: int | None = None
    log: str = ""
    """A log file with details."""
    problems: tuple[Problem, ...] = ()
    node: int | None = None
    cause: str = ""
    """Why a scheduler ends the job: a key of `JOB_ENDS`."""
    early: bool = False
    """True if all warned ranks exited before the job was ended."""
    message: str = ""
    """A sentence from elsewhere, or from an older version."""
    hint: str = ""


class Replaced(NamedTuple):
    """A host whose place a spare host has taken."""

    node: int
    host: str
    by: str
    """The spare host."""
    why: str
    attempt: int | None = None
    """The first attempt without it; None if it was left out before the run started."""


class Repeated(NamedTuple):
    """A failure that came twice in the same way, so that the run was not restarted again."""

    rank: int
    """The rank that failed first in the last attempt."""
    before: int
    """The rank that failed first in the attempt before."""
    exception: str = ""
    """The name of the exception; empty if there was none."""
    place: str = ""
    """Where it was raised: `train.py:21`; empty if unknown."""


class RoleRanks(NamedTuple):
    """The ranks of one role of a run with several programs."""

    name: str
    first: int
    ranks: int
    """Their number."""


class RunResult(NamedTuple):
    """The result of a run. `outcome.json` in the run directory contains it, and the reason as a sentence."""

    state: RunState
    """A state that is `ended`."""
    code: int
    """The exit code of `muster run`."""
    duration: float
    """Seconds from the start of muster to the exit of the last rank."""
    attempt: int = 0
    """The number of the last attempt, from 0."""
    stopped: StopReason | None = None
    """Why the run was stopped, unless by its ranks."""
    root_cause: RankExit | None = None
    """The rank that failed first."""
    exits: tuple[RankExit, ...] = ()
    """The exits of the last attempt's ranks, by rank."""
    leftovers: tuple[Leftover, ...] = ()
    """Leftover processes that were killed after a success, or that are still alive."""
    lost: tuple[LostNode, ...] = ()
    """Lost nodes, except one whose loss ended the run."""
    unlogged: tuple[Unlogged, ...] = ()
    """Output missing in the logs, of all attempts."""
    repeated: Repeated | None = None
    """Why there was no further restart although --max-restarts allowed one."""
    replaced: tuple[Replaced, ...] = ()
    """Hosts whose place spare hosts have taken."""
    roles: tuple[RoleRanks, ...] = ()
    """The roles of a run with several programs."""

    @property
    def is_released(self) -> bool:
        """Whether this is the end of a session that was released, or was idle."""
        return self.stopped is not None and self.stopped.kind is StopKind.RELEASED
