"""What a scheduler is to muster: one record of data and pure functions. A second one is written by this page alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Callable, Generic, NamedTuple, TypeVar

from muster.config.record import Options
from muster.core.model import Node, Rank, Text
from muster.core.results import RunState

T = TypeVar("T")

Env = Mapping[str, str]
Argv = Sequence[str]


class Answer(NamedTuple):
    """What a command of a scheduler has said."""

    code: int
    out: str
    err: str = ""


class Ask(Generic[T]):
    """A question to a scheduler: the command line, and the function that reads what comes of it."""

    __slots__ = ("argv", "read")

    def __init__(self, argv: Argv, read: Callable[[Answer], T]):
        self.argv = tuple(argv)
        self.read = read


# ---- asking for nodes -----------------------------------------------------------------------------------------------


class Wish(NamedTuple):
    """What a run needs, whichever scheduler is asked."""

    name: str
    """The name of the job."""
    nodes: int | None
    """`--nnodes`."""
    each: str | None
    """`--nproc-per-node`: a number, `gpu`, `cpu` or `auto`."""
    ranks: int | None
    """`--np`."""
    gpus: str | None
    """`--gpus`: how many in all."""
    run_dir: str = ""
    """Where the script may write what it says."""


class Request(NamedTuple):
    """What is asked of the scheduler for one job."""

    name: str
    """The name of the job."""
    nodes: int | None
    """None where the scheduler is to choose how many."""
    options: tuple[tuple[str, str], ...] = ()
    """Its own options, by its own names and in order; one without a value has an empty one."""
    output: str = ""
    """Where what the batch script itself says is written, as the scheduler wants it written."""
    before: int = 120
    """Seconds before the end of its time at which the batch script is warned; 0 for never."""
    requeue: bool = False
    tasks: int | None = None
    """How many ranks in all, where the scheduler is to choose how many go to which node."""
    nodelist: tuple[str, ...] = ()
    """The nodes that were named; empty where they are the scheduler's choice."""


class JobTerms(NamedTuple):
    """What somebody wants of muster inside a job, also of one that is there already."""

    signal: str = "USR1"
    """What ranks that listen get before the end of its time, or when it has to make room."""
    before: float = 0.0
    """Seconds before that end; 0 for never."""
    chosen: bool = False
    """Somebody chose that number."""
    requeue: int = 0
    """How often an interrupted job goes on as the next attempt."""
    output: str = ""
    """A pattern for a file of the ranks' output, by the scheduler's own names; empty for none."""
    error: str = ""
    """The same for stderr alone."""


class Refusal(NamedTuple):
    """Why the scheduler did not take a job."""

    words: str
    """In its own words."""
    hint: str | None = None
    option: str = ""
    """The option that it does not know, where it is that."""


# ---- a job ----------------------------------------------------------------------------------------------------------


class Allocation(NamedTuple):
    """The job in which this process runs."""

    job: str
    hosts: tuple[str, ...]
    restarts: int
    """How often the job was started again."""
    tasks: tuple[int, ...] = ()
    """How many tasks the job has on each node, as it was made."""


class Phase(Enum):
    """What a job does, as far as muster has to know."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETING = "completing"
    """Its processes are being ended."""
    ENDED = "ended"
    """It does not come back."""
    UNKNOWN = "unknown"
    """The scheduler has a word for it that muster does not know: that is no end."""

    @property
    def lives(self) -> bool:
        """Its processes run."""
        return self in (Phase.RUNNING, Phase.COMPLETING)


class JobEnd(NamedTuple):
    """An end that the scheduler alone saw; a supervisor would have written its own."""

    state: RunState
    code: int
    words: str
    """How it ended, for a person: `its time was over`."""
    cancelled: bool = False
    """Somebody has cancelled it."""
    failed: bool = False
    """What it ran has failed, or was killed."""


class JobStatus(NamedTuple):
    """One job, as the scheduler lists it."""

    job: str
    name: str
    state: str
    """In the scheduler's own word, one of `Scheduler.states`."""
    hosts: tuple[str, ...] = ()
    reason: str = ""
    """Why it is in that state, in the scheduler's own words."""
    why: str = ""
    """Why it has not started yet, for a person."""
    delayed: bool = False
    """It was put back into the queue, and the scheduler lets some time pass before it starts again."""
    hopeless: bool = False
    """It waits for what never comes, unless somebody changes the job or the cluster."""


class Final(NamedTuple):
    """How a job ended that is listed no more."""

    state: str = ""
    """In the scheduler's own word; empty where nobody knows."""
    cancelled_by: str = ""
    """The number of the user who cancelled it; empty where nobody knows."""


class JobRecord(NamedTuple):
    """What the scheduler knows of a running job; times are in seconds since 1970, None where they are not known."""

    state: str
    reason: str
    start: float | None
    end: float | None
    preempted: bool
    """It has to make room, and perhaps still has some time for that."""


class Task(NamedTuple):
    """How the process that a step starts on a node knows where it is."""

    host: str
    """The variable with the name of its node, one of `Allocation.hosts`."""
    step: str = ""
    """The variable with the number of the step; empty where there is none."""
    unset: str = ""
    """A pattern of variables that tell how the step was asked for, which says nothing of the ranks."""
    program: str = "the step"
    """What starts it, for people."""


class SignalRules(NamedTuple):
    """Which signals come with the end of a job, and when."""

    warning: str = ""
    """Sent to the batch script alone `Request.before` seconds before the end of its time; empty where nothing is."""
    beside: tuple[str, ...] = ("CONT",)
    """Sent together with each SIGTERM, and of no meaning of their own."""
    kill_wait: float = 30.0
    """Seconds between SIGTERM and SIGKILL where `asked_kill_wait` has no answer."""
    asked_kill_wait: Ask[float] | None = None
    stopped_by: Callable[[str, JobRecord | None], str] = lambda said, record: ""
    """Why a job is being ended, one of `events.JOB_ENDS`, by what its step and its script have said and by what is
    known of it; empty where that cannot be told yet."""


class TaskVariables(NamedTuple):
    """What the scheduler tells tasks of its own about who they are: each rank is told that as if it were one."""

    of_rank: Callable[[Rank], dict[str, Text]]
    """What tells the ranks of a node apart."""
    of_node: Callable[[Node, Sequence[Node], str], dict[str, Text]]
    """What all ranks of a node are told, given all nodes and the number of the job: empty while there is none."""
    layout: str
    """A pattern of variables of a task of the scheduler that say nothing of the ranks."""
    of_job: Callable[[bool], str]
    """A pattern of what is told of the job on a node, which launchers may drop; given whether ranks are such tasks."""


class FileNames(NamedTuple):
    """How the files that `--output` and `--error` name are written."""

    of_job: Callable[[Env], dict[str, str | int]]
    """What patterns say of the job in which this process runs."""
    of_rank: Callable[[Mapping[str, str | int], Rank, str, str], dict[str, str | int]]
    """The same of one rank, given its host and the number of the step."""
    fill: Callable[[str, Mapping[str, str | int]], str]


# ---- the machines ---------------------------------------------------------------------------------------------------


class NodeStatus(NamedTuple):
    """A node, as the scheduler shows it."""

    name: str
    partitions: tuple[str, ...]
    state: str
    cores: int
    free_cores: int
    memory: int
    """In MB."""
    gpus: Mapping[str, int]
    """How many of each type; the type is empty where the cluster names none."""
    reason: str
    """Why it is down or drained."""
    takes_jobs: bool = True


class QueueEntry(NamedTuple):
    """A job of the queue."""

    job: str
    user: str
    partition: str
    state: str
    nodes: int
    gpus: str
    """As it was asked for."""
    used: str
    limit: str
    reason: str


class Remedies(NamedTuple):
    """What to do about what the doctor finds."""

    silent: str = ""
    """The scheduler does not answer."""
    gpus: str = ""
    """A node has other GPUs than the scheduler thinks."""
    node: str = ""
    """It starts no job on `{node}`."""


class Machines(NamedTuple):
    """What `muster nodes` and `muster doctor` show."""

    nodes: Ask[list[NodeStatus]]
    gpus_in_use: Ask[dict[str, dict[str, int]]]
    """By node and type."""
    queue: Ask[list[QueueEntry]]
    """Everybody's jobs."""
    remedies: Remedies = Remedies()


# ---- the record -----------------------------------------------------------------------------------------------------


class Scheduler(NamedTuple):
    """A scheduler. The fields without a default are what a run needs; without the others it does less, or says less."""

    title: str
    """What people call it."""

    # a job is asked for
    request: Callable[[Wish, Options], Request]
    """What the options ask for; raises `InvalidRequest`."""
    script: Callable[[Request, Sequence[str], Sequence[str], bool], str]
    """The script of a job, given the lines of `--setup`, the command of muster, whose first word is a Python, and
    whether that Python stays although these lines find another one."""
    submit: Callable[[Request, str], Ask[str]]
    """Hand in the script at this path; gives the number of the job."""

    # it is looked after
    jobs: Callable[[], Ask[dict[str, JobStatus]]]
    """This person's jobs, by number, those that ended lately too."""
    states: Mapping[str, Phase]
    """What each of its words for the state of a job means."""
    ends: Mapping[str, JobEnd]
    """What those words mean that are an end."""
    cancel: Callable[[str], Argv]

    # inside of it
    allocation: Callable[[Env], Allocation | None]
    """The job in which a process with this environment runs; None outside of one. Raises `InvalidRequest`."""
    step: Callable[[Sequence[str], Argv, str, int | None, bool], Argv]
    """One process of a command on each of some hosts of a job, beside what runs there already. Given are the hosts, the
    command, the job, how many GPUs each gets (None where nobody knows), and whether the first one reads stdin."""
    task: Task

    # what some have beside
    terms: Callable[[Options], JobTerms] = lambda options: JobTerms()
    """What the options want of muster inside a job; raises `InvalidRequest`."""
    check_inside: Callable[[Allocation, Options], None] = lambda allocation, options: None
    """Raise `InvalidRequest` for options that say how a job is to be, inside of one that is there already."""
    nodelist: str = ""
    """The key of the option that names nodes; empty where there is none."""
    refused: Callable[[str], Refusal] = lambda err: Refusal((err.strip().splitlines() or ["it said nothing"])[-1])
    """Why a job was not taken, by what the command of `submit` has said."""
    options_known: Ask[set[str]] | None = None
    """The options that the command of `submit` has."""
    trial: Callable[[Request, Argv], Argv] | None = None
    """Run something on one such node, if one is free now."""
    clean: Callable[[Env], dict[str, str]] = dict
    """The environment for a command of this scheduler: all options stand on its command line."""
    submit_env: Callable[[Env], dict[str, str]] = dict
    """The same for `submit`."""
    exported: Callable[[Env], dict[str, str]] = lambda env: {}
    """What `clean` takes away and scripts may want."""
    outputs: tuple[str, ...] = ()
    """The names that the batch script's output may have in the run directory; `%j` is the number of the job."""
    cluster: Callable[[Env], str] = lambda env: ""
    """The cluster of the job in which a process with this environment runs; empty for the one that commands ask."""
    cluster_asked: Ask[str] | None = None
    """The cluster that commands ask; empty where that is not told."""
    job_now: Callable[[str, str, bool], Ask[JobStatus | None]] | None = None
    """One job on that cluster, given whether any user's will do; None where there is none. Raises `LookupError` where
    the answer does not tell."""
    left_over: Callable[[Allocation], tuple[str, str]] | None = None
    """What in the environment says that this process is in that job, and how to get rid of that."""
    final: Callable[[str], Ask[Final]] | None = None
    """How a job ended that is listed no more."""
    requeue: Callable[[str, bool], Argv] | None = None
    """Put a running job back into the queue, where it keeps its number; given whether it is ending already."""
    refuses_requeue: Callable[[str], bool] = lambda err: True
    """It will not do that, however often it is asked, by what the command has said."""
    start_now: Callable[[str], Argv] | None = None
    """Have a job that is `delayed` start as soon as it can."""
    restarts: Callable[[str], Ask[int]] | None = None
    """How often a job was put back into the queue."""
    record: Callable[[str], Ask[JobRecord | None]] | None = None
    """What is known of a running job."""
    gpus: Callable[[str, Mapping[str, int]], Ask[dict[str, int]]] | None = None
    """How many GPUs a job has on each of its nodes, given how many tasks it has there."""
    cpus: Callable[[Env, Sequence[str]], dict[str, int]] = lambda env, hosts: {}
    """How many CPUs the job has on each of these nodes, where somebody asked for CPUs of a task; else empty."""
    failed_steps: Callable[[str], dict[str, str]] = lambda said: {}
    """The hosts on which a step has failed, and how, by what its command has said while others still run."""
    signals: SignalRules = SignalRules()
    variables: TaskVariables | None = None
    file_names: FileNames | None = None
    machines: Machines | None = None
    naming_nodes: str = ""
    """What to say instead of `--hosts` to the doctor, as the end of a hint."""
    interactive: str = ""
    """The command that gives somebody a job and a terminal in it; empty where there is none."""
    hold: Callable[[int, Options, Argv], Argv] | None = None
    """Run a command here that has so many nodes while it runs (`muster doctor`)."""
    down: str = ""
    """What to look at when it does not answer."""
    login_node: str = "run this on a login node of the cluster"
    """What to do where its commands are not there."""

    def phase(self, state: str) -> Phase:
        """What one of its words means."""
        return Phase.ENDED if state in self.ends else self.states.get(state, Phase.UNKNOWN)
