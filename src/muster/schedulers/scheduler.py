"""The interface of a scheduler: one record of data and pure functions. This page is all one needs to add another."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Callable, Generic, NamedTuple, TypeVar

from muster.config.record import Options
from muster.core.accounting import Granted, Recorded
from muster.core.model import Node, Rank, Text
from muster.core.results import RunState

T = TypeVar("T")

Env = Mapping[str, str]
Argv = Sequence[str]


class Answer(NamedTuple):
    """The output of a scheduler's command."""

    code: int
    out: str
    err: str = ""


def program_of(argv: Argv) -> str:
    """Return the name, for users, of the program that a command runs; for shell lines, NAME of `sh -c LINES NAME`."""
    return argv[3] if (*argv[:2],) == ("sh", "-c") and len(argv) > 3 else argv[0]


class Ask(Generic[T]):
    """A question to a scheduler: the command line, and the function that parses its output."""

    __slots__ = ("argv", "read")

    def __init__(self, argv: Argv, read: Callable[[Answer], T]):
        self.argv = tuple(argv)
        self.read = read


JOB_ID = re.compile(r"[0-9A-Za-z][\w.@:\[\]-]{0,63}", re.ASCII)
"""A job id. It is passed on command lines, so that it does not start with a hyphen."""


# ---- requesting nodes -----------------------------------------------------------------------------------------------


class After(NamedTuple):
    """A job that has to end before another one starts."""

    job: str
    how: str
    """`ok`, `any` or `failed`: how it has to end. Otherwise the other one never starts."""


class Wish(NamedTuple):
    """The requirements of a run, independent of the scheduler."""

    name: str
    """Job name."""
    nodes: int | None
    """`--nnodes`."""
    each: str | None
    """`--nproc-per-node`: a number, `gpu`, `cpu` or `auto`."""
    ranks: int | None
    """`--np`."""
    gpus: str | None
    """`--gpus`: the total number of GPUs."""
    run_dir: str = ""
    """Directory for the output of the batch script."""
    spares: int = 0
    """`--spare-nodes`: the number of nodes in addition to `nodes`; the job is to survive the loss of a node."""
    array: str = ""
    """The numbers of the tasks of a job array, as `core.sweep.array` reads them; empty for a single job."""
    after: tuple[After, ...] = ()
    """The jobs to wait for."""


class Request(NamedTuple):
    """A request for one job, as passed to the scheduler."""

    name: str
    """Job name."""
    nodes: int | None
    """Number of nodes; None if the scheduler chooses it."""
    options: tuple[tuple[str, str], ...] = ()
    """The scheduler's own options (name, value), in order; the value is empty for options without one."""
    output: str = ""
    """File for the output of the batch script itself, in the scheduler's notation."""
    before: int = 120
    """Seconds before the time limit at which the batch script gets a signal; 0 for never."""
    requeue: str = ""
    """How an interrupted job is requeued: `yes`, or a way of the scheduler; empty for never."""
    tasks: int | None = None
    """Total number of ranks, if the scheduler chooses how many go to which node."""
    nodelist: tuple[str, ...] = ()
    """The requested nodes; empty if the scheduler chooses them."""
    array: str = ""
    """The numbers of the tasks of a job array; empty for a single job."""
    env_file: str = ""
    """Private file of shell lines that set the job's environment variables, if `Scheduler.publishes_env`. The script
    reads it first, and removes it."""


class JobTerms(NamedTuple):
    """The options for muster's behavior inside a job, including an existing one."""

    signal: str = "USR1"
    """Signal sent to ranks that handle it before the time limit, or when the job is preempted."""
    before: float = 0.0
    """Seconds before the time limit at which it is sent; 0 for never."""
    chosen: bool = False
    """True if the user chose that time."""
    requeue: int = 0
    """Number of times that an interrupted job is continued as another attempt."""
    output: str = ""
    """Pattern for a file with the ranks' output, with the scheduler's placeholders; empty for none."""
    error: str = ""
    """Pattern for a file with stderr only."""


class Refusal(NamedTuple):
    """A scheduler's reason to reject a job."""

    words: str
    """The scheduler's own message."""
    hint: str | None = None
    option: str = ""
    """The option that it does not know, if that is the reason."""


# ---- a job ----------------------------------------------------------------------------------------------------------


class Allocation(NamedTuple):
    """The job in which this process runs."""

    job: str
    hosts: tuple[str, ...]
    restarts: int
    """Number of times the job was restarted."""
    tasks: tuple[int, ...] = ()
    """Number of tasks on each node, as requested for the job."""


class Phase(Enum):
    """The phase of a job, as far as muster distinguishes it."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETING = "completing"
    """Its processes are being terminated."""
    ENDED = "ended"
    """It will not run again."""
    UNKNOWN = "unknown"
    """A state that muster does not know, which is not taken for an end."""

    @property
    def lives(self) -> bool:
        """True if its processes are running."""
        return self in (Phase.RUNNING, Phase.COMPLETING)


class JobEnd(NamedTuple):
    """An end of the job that only the scheduler observed; otherwise the controller would have recorded the result."""

    state: RunState
    code: int
    words: str
    """How it ended, for users, such as `its time was over`."""
    cancelled: bool = False
    """True if it was cancelled."""
    failed: bool = False
    """True if its command failed or was killed."""


class JobStatus(NamedTuple):
    """A job, as listed by the scheduler."""

    job: str
    name: str
    state: str
    """The scheduler's own name of the state, a key of `Scheduler.states`."""
    hosts: tuple[str, ...] = ()
    reason: str = ""
    """The scheduler's reason for the state."""
    why: str = ""
    """Why it has not started yet, for users."""
    delayed: bool = False
    """True if it was requeued, and the scheduler delays its start for a while."""
    hopeless: bool = False
    """True if it will never start unless someone changes the job or the cluster."""


class Final(NamedTuple):
    """The final state of a job that is no longer listed."""

    state: str = ""
    """The scheduler's own name of the state; empty if unknown."""
    cancelled_by: str = ""
    """Uid of the user who cancelled it; empty if unknown."""


class JobGpus(NamedTuple):
    """The GPUs of a running job, as the scheduler records them."""

    by_host: Mapping[str, int]
    """Number of GPUs on each node; empty if the record has none of the lines that tell."""
    requested: str = ""
    """The request for GPUs in the scheduler's own words, such as `gres:gpu:6`; empty if none were requested."""


class JobRecord(NamedTuple):
    """The scheduler's record of a job; times are Unix times, None if unknown."""

    state: str
    reason: str
    start: float | None
    """Start time; of a pending job the expected one."""
    end: float | None
    preempted: bool
    """True if it is being preempted, possibly with some time left."""
    submitted: float | None = None
    partition: str = ""
    priority: str = ""
    hosts: tuple[str, ...] = ()


class Task(NamedTuple):
    """Environment variables from which a process started by a step learns its node."""

    host: str
    """Environment variable with the node name, one of `Allocation.hosts`."""
    step: str = ""
    """Environment variable with the step id; empty if there is none."""
    unset: str = ""
    """Pattern of environment variables that describe the request of the step, which does not concern the ranks."""
    program: str = "the step"
    """The program that starts it, for users."""


class SignalRules(NamedTuple):
    """The signals that a job gets at its end, and when."""

    warning: str = ""
    """Signal sent only to the batch script `Request.before` seconds before the time limit; empty for none."""
    stop: str = "TERM"
    """Signal that tells the batch script and the steps that the job is being ended; SIGTERM always does, too."""
    beside: tuple[str, ...] = ("CONT",)
    """Signals sent together with each SIGTERM, with no meaning of their own."""
    kill_wait: float = 30.0
    """Seconds between SIGTERM and SIGKILL, if `asked_kill_wait` has no answer."""
    asked_kill_wait: Ask[float] | None = None
    tells_limit: bool = True
    """False if a job that is being ended reached its time limit as far as the time shows, which nothing else tells."""
    stopped_by: Callable[[str, JobRecord | None], str] = lambda said, record: ""
    """Returns why a job is being ended, one of `events.JOB_ENDS`, from the output of its step and script and from its
    record; empty if unknown."""


class TaskVariables(NamedTuple):
    """The scheduler's environment variables of a task: each rank gets them as if it were one."""

    of_rank: Callable[[Rank], dict[str, Text]]
    """Returns the variables that differ between the ranks of a node."""
    of_node: Callable[[Node, Sequence[Node], str], dict[str, Text]]
    """Returns the variables common to the ranks of a node, given all nodes and the job id, which is empty before there
    is one."""
    layout: str
    """Pattern of a task's variables that do not concern the ranks."""
    of_job: Callable[[bool], str]
    """Returns a pattern of a node's variables about the job, which launchers may drop; given whether ranks are tasks.
    """


class FileNames(NamedTuple):
    """The placeholders in the file names of `--output` and `--error`."""

    of_job: Callable[[Env], dict[str, str | int]]
    """Returns the values of the placeholders for the job in which this process runs."""
    of_rank: Callable[[Mapping[str, str | int], Rank, str, str], dict[str, str | int]]
    """Returns the values for one rank, given its host and the step id."""
    fill: Callable[[str, Mapping[str, str | int]], str]


# ---- the machines ---------------------------------------------------------------------------------------------------


class NodeStatus(NamedTuple):
    """A node, as shown by the scheduler."""

    name: str
    partitions: tuple[str, ...]
    state: str
    cores: int
    free_cores: int
    memory: int
    """In MB."""
    gpus: Mapping[str, int]
    """Number of GPUs by type; the type is empty if the cluster names none."""
    reason: str
    """Why it is down or drained."""
    takes_jobs: bool = True


class QueueEntry(NamedTuple):
    """A job in the queue."""

    job: str
    user: str
    partition: str
    state: str
    nodes: int
    gpus: str
    """As requested."""
    used: str
    limit: str
    reason: str
    name: str = ""
    hosts: str = ""
    """The nodes of a running job, in the scheduler's notation."""
    start: str = ""
    """When a pending job is expected to start; empty if the scheduler does not know."""


class PartitionStatus(NamedTuple):
    """A partition or queue to which jobs are submitted, in the scheduler's own words."""

    name: str
    state: str
    default: bool
    """True if jobs that name none go there."""
    limit: str
    """Maximum time limit of its jobs."""
    usual_limit: str
    """Time limit of jobs that request none."""
    sizes: str
    """Number of nodes that a job may request, such as `1-infinite`."""
    nodes: int
    hosts: str


class Arrays(NamedTuple):
    """Job arrays: one submission for many jobs that differ by a number."""

    number: Callable[[Env], str]
    """Returns the number of the array task in which a process with this environment runs; empty outside of one."""
    array: Callable[[Env], str]
    """Returns the id of its array."""
    task: Callable[[str, str], str]
    """Returns the job id of a task, given the id of the array and the task's number; of several for `1,4-6`, which only
    `cancel` accepts."""


class Remedies(NamedTuple):
    """Remedies for findings of the doctor."""

    silent: str = ""
    """If the scheduler does not answer."""
    gpus: str = ""
    """If a node has other GPUs than the scheduler assumes."""
    node: str = ""
    """If no job can be started on `{node}`."""


class Machines(NamedTuple):
    """Questions of `muster nodes` and `muster doctor`."""

    nodes: Ask[list[NodeStatus]]
    gpus_in_use: Ask[dict[str, dict[str, int]]]
    """Number of GPUs in use, by node and type."""
    queue: Ask[list[QueueEntry]]
    """The jobs of all users."""
    remedies: Remedies = Remedies()
    partitions: Ask[list[PartitionStatus]] | None = None


# ---- the record -----------------------------------------------------------------------------------------------------


class Scheduler(NamedTuple):
    """A scheduler. Fields without a default are required for runs; the others add features or information."""

    title: str
    """Name for users."""

    # submission
    request: Callable[[Wish, Options], Request]
    """Returns the job request for the options. Raises `InvalidRequest`."""
    script: Callable[[Request, Sequence[str], Sequence[str], bool], str]
    """Returns the batch script, given the lines of `--setup`, the muster command, whose first word is a Python, and
    whether that Python is kept even if these lines put another one first in PATH."""
    submit: Callable[[Request, str], Ask[str]]
    """Submits the script at this path; returns the job id."""

    # monitoring
    jobs: Callable[[], Ask[dict[str, JobStatus]]]
    """Returns the user's jobs by id, including recently finished ones."""
    states: Mapping[str, Phase]
    """The phase for each of the scheduler's job states."""
    ends: Mapping[str, JobEnd]
    """The meaning of each job state that is final."""
    cancel: Callable[[str], Argv]

    # inside a job
    allocation: Callable[[Env], Allocation | None]
    """Returns the job in which a process with this environment runs; None outside of one. Raises `InvalidRequest`."""
    step: Callable[[Sequence[str], Argv, str, int | None, bool], Argv]
    """Returns the command that starts one process on each of some hosts of a job, beside what is running there. The
    arguments are the hosts, the command, the job id, the GPUs for each (None if unknown), and whether the first process
    reads stdin."""
    task: Task

    # optional features
    terms: Callable[[Options], JobTerms] = lambda options: JobTerms()
    """Returns the options for muster's behavior inside a job. Raises `InvalidRequest`."""
    ask_allocation: Callable[[Env], Ask[Allocation | None] | None] = lambda env: None
    """Returns the question for that job if variables do not tell it all; None outside of one."""
    check_inside: Callable[[Allocation, Options], None] = lambda allocation, options: None
    """Raises `InvalidRequest` for options that describe a new job, inside an existing one."""
    nodelist: str = ""
    """Key of the option that names nodes; empty if there is none."""
    divides: bool = False
    """True if the nodes of a job can be divided between the roles of a run: steps have environments of their own."""
    refused: Callable[[str], Refusal] = lambda err: Refusal((err.strip().splitlines() or ["no error message"])[-1])
    """Returns why a job was rejected, given the stderr of the `submit` command."""
    options_known: Ask[set[str]] | None = None
    """The options of the `submit` command."""
    trial: Callable[[Request, Argv], Argv] | None = None
    """Returns the command that runs something on one such node, if one is free now."""
    clean: Callable[[Env], dict[str, str]] = dict
    """Returns the environment for the scheduler's commands: all options are passed on the command line."""
    submit_env: Callable[[Env], dict[str, str]] = dict
    """Returns the environment for `submit`, with which the job starts unless `publishes_env`."""
    publishes_env: bool = False
    """True if other users could see variables that `submit` passes to the job: they are in `Request.env_file`."""
    complete: Callable[[Request], Ask[Request] | None] = lambda request: None
    """Returns the question to ask before a request is submitted, about what only the cluster knows, if there is one;
    the answer is the complete request, or `InvalidRequest` is raised."""
    exported: Callable[[Env], dict[str, str]] = lambda env: {}
    """Returns the variables that `clean` removes and scripts may need."""
    outputs: tuple[str, ...] = ()
    """Possible names of the batch script's output in the run directory; `%j` is the job id."""
    cluster: Callable[[Env], str] = lambda env: ""
    """Returns the cluster of the job in which a process with this environment runs; empty for the default cluster."""
    cluster_asked: Ask[str] | None = None
    """The cluster that commands query; empty if unknown."""
    job_now: Callable[[str, str, bool], Ask[JobStatus | None]] | None = None
    """Returns the status of a job on that cluster, given whether another user's job is accepted; None if there is none.
    Raises `LookupError` if the answer is unclear."""
    left_over: Callable[[Allocation], tuple[str, str]] | None = None
    """Returns what in the environment claims that this process is in that job, and how to remove it."""
    final: Callable[[str], Ask[Final]] | None = None
    """Returns the final state of a job that is no longer listed."""
    requeue: Callable[[str, bool], Argv] | None = None
    """Returns the command that requeues a running job under the same id; given whether it is ending already."""
    refuses_requeue: Callable[[str], bool] = lambda err: True
    """Returns whether the scheduler refuses a requeue for good, given the command's stderr."""
    start_now: Callable[[str], Argv] | None = None
    """Returns the command that starts a `delayed` job as soon as possible."""
    restarts: Callable[[str], Ask[int]] | None = None
    """Returns how often a job was requeued."""
    recorded: Callable[[str, float], Ask[Recorded | None]] | None = None
    """Returns what accounting recorded of a job, given the Unix time at which it was submitted; None unless it has
    ended."""
    granted: Callable[[str], Ask[dict[str, Granted]]] | None = None
    """Returns what a running job has on each of its nodes."""
    record: Callable[[str], Ask[JobRecord | None]] | None = None
    """Returns the record of a pending or running job."""
    gpus: Callable[[str, Mapping[str, int]], Ask[JobGpus | None]] | None = None
    """Returns a job's GPUs on each of its nodes, given its number of tasks there; None if the answer has no record."""
    gpus_claimed: Callable[[Env], str] = lambda env: ""
    """Returns the environment variable that says that the job has GPUs, as `NAME=VALUE`; empty if none does."""
    cpus: Callable[[Env, Sequence[str]], dict[str, int]] = lambda env, hosts: {}
    """Returns the job's number of CPUs on each of these nodes, if CPUs per task were requested; otherwise empty."""
    failed_steps: Callable[[str], dict[str, str]] = lambda said: {}
    """Returns the hosts on which a step has failed, and how, given its output while others are still running."""
    signals: SignalRules = SignalRules()
    variables: TaskVariables | None = None
    file_names: FileNames | None = None
    arrays: Arrays | None = None
    """Job arrays; without them a sweep is one job per point."""
    waits: bool = False
    """True if a job can wait for others: `Wish.after`."""
    machines: Machines | None = None
    naming_nodes: str = ""
    """What to use instead of `--hosts` with the doctor, as the end of a hint."""
    interactive: str = ""
    """The command that gives a user an interactive job; empty if there is none."""
    shell: Callable[[str, Argv, str, int | None], Argv] | None = None
    """Returns the command that runs another one on a host of a job with the terminal of this process (`muster shell`);
    given the host, the command, the job id and the GPUs there. None if `muster hold` is not possible."""
    hold: Callable[[int, Options, Argv], Argv] | None = None
    """Returns the command that runs another one here with this many nodes allocated (`muster doctor`)."""
    down: str = ""
    """What to check if the scheduler does not answer."""
    login_node: str = "run this on a login node of the cluster"
    """What to do if its commands are not installed."""
    no_cluster: str = ""
    """Pattern of a message of its commands on a machine that is not part of a cluster; empty if there is none."""

    def phase(self, state: str) -> Phase:
        """Return the phase for one of the scheduler's job states."""
        return Phase.ENDED if state in self.ends else self.states.get(state, Phase.UNKNOWN)
