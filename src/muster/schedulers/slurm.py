"""Slurm: the batch script, the command lines, and what their output means. Tried with 22.05."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from shlex import quote
from typing import NamedTuple

from muster.agent.bootstrap import shell_script
from muster.agent.rank_info import counts
from muster.core.hostlist import fold_hostlist, parse_nodelist
from muster.core.model import Late, Node, Rank, Text
from muster.core.results import RunState
from muster.errors import InvalidRequest
from muster.schedulers.scheduler import Allocation, JobEnd, JobRecord, NodeStatus, Phase, QueueEntry, Request

# ---- asking for nodes -----------------------------------------------------------------------------------------------


OURS: Mapping[str, str] = {
    "job-name": "--name",
    "nodes": "--nnodes",
    "ntasks": "--np",
    "ntasks-per-node": "--nproc-per-node",
    "output": "--output",
    "error": "--error",
    "signal": "--signal-before",
    "requeue": "--requeue",
    "no-requeue": "--requeue",
    "chdir": "--cwd",
    "open-mode": "",
    "array": "",
    "wrap": "",
    "parsable": "",
    "wait": "",
    "export": "--env",
    "clusters": "",
    "cluster": "",
}
"""Options of sbatch that muster writes itself, and its own option for that."""


def output_in(folder: str) -> str:
    """The pattern for sbatch's --output of a file in this folder, whatever its name holds.

    A backslash anywhere takes the meaning of all patterns, and is itself written twice; then the file has no number.
    """
    if "\\" in folder:
        return folder.replace("\\", "\\\\") + f"/{OUTPUTS[1]}"
    return folder.replace("%", "%%") + f"/{OUTPUTS[0]}"


OUTPUTS = ("slurm-%j.out", "slurm.out")
"""Where the batch script's output goes in the run directory, `%j` is the number of the job; see `output_in`."""


def help_of_sbatch() -> tuple[str, ...]:
    """Ask sbatch for its options; `options_of_sbatch` reads the answer."""
    return ("sbatch", "--help")


def options_of_sbatch(out: str) -> set[str]:
    """The long names of all options, without hyphens in front."""
    return set(re.findall(r"^\s*(?:-\w,\s+)?--([a-z][\w-]*)", out, re.MULTILINE))


_CHOOSES = ("partition", "account", "qos", "reservation", "constraint", "nodelist", "clusters")
"""Options that say which nodes are meant."""


def probe_argv(request: Request, command: Sequence[str]) -> list[str]:
    """Run something on one such node, if one is free now."""
    chosen = [f"--{name}={value}" for name, value in request.options if name in _CHOOSES and name != "nodelist"]
    return [
        *("srun", "--immediate=3", "--nodes=1", "--ntasks=1", "--time=1", "--job-name=muster-looks", "--mpi=none"),
        *("--input=none", "--quiet", *chosen, *command),
    ]


WARNING = "URG"
"""The signal by which Slurm says that the end of the time is near. In a short job it may come before the batch script
has done anything, and SIGUSR1 would end it; nobody who does not handle SIGURG ends of that."""


def options(request: Request) -> list[str]:
    """All options of sbatch, as they stand in the script and on the command line."""
    words = [f"--job-name={request.name}"]
    if request.nodes is not None:
        words.append(f"--nodes={request.nodes}")
    if request.tasks is not None:
        words.append(f"--ntasks={request.tasks}")
    elif request.nodes is not None:
        # one task a node is muster's agent; the ranks are its children
        words.append("--ntasks-per-node=1")
    words += [f"--{name}={value}" if value else f"--{name}" for name, value in request.options]
    words += [f"--output={request.output}", "--open-mode=append"]
    if request.before:
        words.append(f"--signal=B:{WARNING}@{request.before}")
    return [*words, "--requeue" if request.requeue else "--no-requeue"]


def batch_script(request: Request, setup: Sequence[str], command: Sequence[str], keep_python: bool = False) -> str:
    """The script for sbatch: what it asks for, the person's shell lines, and muster.

    The first word of `command` is a Python; see `shell_script` for `keep_python`.
    """
    lines = ["#!/bin/bash -l" if setup else "#!/bin/bash"]
    for word in options(request):
        name, equals, value = word.partition("=")
        lines.append(f"#SBATCH {name}{equals}{quote(value) if equals else ''}")
    lines.append("")
    if setup:
        return "\n".join([*lines, shell_script(command, setup, keep_python, "muster: ")])
    return "\n".join([*lines, f"exec {' '.join(map(quote, command))}", ""])


def submit(request: Request, script: str) -> tuple[str, ...]:
    """Hand a script in; `submitted` reads what it says.

    The options are said here too: SBATCH_… variables would come before those in the script.
    """
    return ("sbatch", "--parsable", "--export=ALL", *options(request), script)


def submitted(out: str) -> str:
    """The number of the job; with federations `12;cluster` is said."""
    return out.strip().splitlines()[-1].partition(";")[0]


_REFUSED = (
    ("Invalid partition name specified", "`sinfo -s` lists the partitions"),
    (
        "Requested node configuration is not available",
        "no node has so many GPUs, cores or so much memory; `sinfo -Nel`",
    ),
    ("Invalid node name specified", "`sinfo -N` lists the nodes"),
    ("Invalid account", "`sacctmgr show assoc user=$USER` lists your accounts"),
    ("Invalid qos", "`sacctmgr show qos` lists them"),
    ("Invalid --time specification", "write it as 4:00:00, 90 (minutes) or 2-12 (days-hours)"),
    ("Invalid generic resource", "`sinfo -o '%N %G'` shows what the nodes have"),
    ("Unable to contact slurm controller", "slurmctld does not answer; try again later"),
)


def unknown_option(err: str) -> str:
    """The option that sbatch does not know: `sbatch: unrecognized option '--qoss=high'`; empty when it was another."""
    found = re.search(r"unrecognized option '--([\w-]+)", err)
    return found[1] if found else ""


def refused(err: str) -> tuple[str, str | None]:
    """(Slurm's own words, a hint) of an sbatch that failed."""
    lines = [line.partition("error: ")[2] or line for line in err.strip().splitlines()]
    words = (lines or ["it said nothing"])[-1].replace("Batch job submission failed: ", "")
    return words, next((hint for known, hint in _REFUSED if known.lower() in err.lower()), None)


# ---- inside a job ---------------------------------------------------------------------------------------------------


def allocation(env: Mapping[str, str]) -> Allocation | None:
    """The allocation of salloc, of a batch script or of a step; None outside. Raises `InvalidRequest`."""
    job = env.get("SLURM_JOB_ID")
    if job and env.get("SLURM_HET_SIZE", "1") not in ("", "1"):
        raise InvalidRequest(
            f"job {job} is heterogeneous (SLURM_HET_SIZE={env['SLURM_HET_SIZE']}), which muster does not know",
            "ask for one kind of nodes",
        )
    if not job or not env.get("SLURM_JOB_NODELIST"):
        return None
    hosts = tuple(unfold_nodes(env["SLURM_JOB_NODELIST"]))
    return Allocation(job, hosts, _number(env.get("SLURM_RESTART_COUNT", "")), tasks_per_node(env))


def unfold_nodes(text: str) -> list[str]:
    """The nodes of a list as Slurm writes it. Raises `InvalidRequest`."""
    return parse_nodelist(text, "Slurm's list of nodes")


def tasks_per_node(env: Mapping[str, str]) -> tuple[int, ...]:
    """`2(x3),1` of SLURM_TASKS_PER_NODE is 2, 2, 2, 1; empty where it is not said."""
    return tuple(counts(env.get("SLURM_TASKS_PER_NODE", "")))


NOT_AN_ARRAY = 4294967294
"""What Slurm writes for `%a` in a job that is no task of an array."""

_WIDEST = 10


def fill_pattern(pattern: str, values: Mapping[str, str | int]) -> str:
    """Slurm's patterns of file names, as srun of 22.05 fills them: `%x-%j.%4t.out`.

    A number after `%` is the width of what is a number, 10 at most. A letter that is not known stays as it is, and
    `%%` is `%`. A backslash anywhere takes the meaning of all patterns; of two in a row one stays.
    """
    if "\\" in pattern:
        return re.sub(r"\\(\\?)", r"\1", pattern)

    def one(found: re.Match[str]) -> str:
        width, letter = found.groups()
        if letter == "%":
            return "%"
        if letter not in values:
            return found[0]
        value = str(values[letter])
        number, dot, rest = value.partition(".")  # of `%J`, 128.0, the first is padded
        return number.zfill(min(int(width or 0), _WIDEST)) + dot + rest if number.isdigit() else value

    return re.sub(r"%(\d{0,9})([A-Za-z%])", one, pattern)


def names_of_job(env: Mapping[str, str]) -> dict[str, str | int]:
    """What patterns of file names say of the job in which this process runs."""
    job = env.get("SLURM_JOB_ID", "")
    return {
        "j": job,
        "x": env.get("SLURM_JOB_NAME", ""),
        "u": env.get("SLURM_JOB_USER", ""),
        "A": env.get("SLURM_ARRAY_JOB_ID", job),
        "a": env.get("SLURM_ARRAY_TASK_ID", NOT_AN_ARRAY),
    }


def names_of_task(job: Mapping[str, str | int], rank: Rank, host: str, step: str) -> dict[str, str | int]:
    """The same of one rank, as it were a task of that step of the job."""
    own: dict[str, str | int] = {
        "t": rank.rank,
        "n": rank.node,
        "N": host.partition(".")[0],
        "s": step,
        "J": f"{job['j']}.{step}",
    }
    return {**job, **own}


_KEPT = (
    # where the cluster is, and who asks
    r"SLURM_(?:CONF|CONF_SERVER|JWT|CLUSTER_NAME|WORKING_CLUSTER"
    # what the job is: no program of Slurm takes an option from these
    r"|JOB_\w+|JOBID|SUBMIT_\w+|ARRAY_\w+|RESTART_COUNT|NODELIST|NNODES|NODE_ALIASES|TOPOLOGY_\w+"
    r"|GPUS_ON_NODE|CPUS_ON_NODE)"
)
_OF_SLURM = r"(?:SLURM|SRUN|SBATCH|SALLOC|SQUEUE|SCANCEL|SINFO|SACCT|SCONTROL|PMI|PMI2|PMIX)_\w+"
NOT_FOR_SLURM = rf"(?!(?:{_KEPT})$){_OF_SLURM}"
"""A pattern of variables from which Slurm's programs take options: of an outer step, or meant for other programs."""

_FOR_SBATCH = (
    r"SBATCH_(ACCOUNT|PARTITION|QOS|RESERVATION|CONSTRAINT|TIMELIMIT|WCKEY|EXCLUSIVE|GRES|GPUS_PER_NODE"
    r"|MEM_PER_(CPU|GPU|NODE))"
)
"""What somebody wants for all jobs: who pays, and which nodes."""

_OF_TASKS = (
    r"SLURM_(NTASKS|NPROCS|N?TASKS_PER_NODE|STEP\w*|PROCID|LOCALID|NODEID|GTIDS|TASK_PID|DISTRIBUTION|CPUS_PER_TASK"
    r"|CPU_BIND\w*|MEM_BIND\w*|LAUNCH_\w+|SRUN_COMM_\w+|PRIO_PROCESS|UMASK|OPEN_MODE)|SRUN_DEBUG|PMI\w*"
)
"""Variables that tell tasks of Slurm apart or how they lie; ranks have their own, see `environment_of_node`."""

OF_AGENTS = r"SLURM_(NTASKS_PER_NODE|CPU_BIND\w*|MEM_BIND\w*|CPUS_PER_TASK|OVERCOMMIT)|SRUN_\w+"
"""A pattern of variables that tell how one agent a node was asked for, which says nothing of the ranks."""

_OF_STEP = r"SLURM_(?:STEP_?ID|STEP_LAUNCHER_PORT|SRUN_COMM_\w+|TASK_PID|LAUNCH_NODE_IPADDR|PRIO_PROCESS|UMASK)"
"""Variables of a task that are true of the step alone in which it runs."""

LAYOUT_OF_TASKS = rf"(?!(?:{_OF_STEP})$)(?:SLURMD?|SRUN)_.*"
"""A pattern of variables of a task that tell how srun was to lay out tasks: that says nothing of the ranks."""


def of_the_job(tasks: bool) -> str:
    """A pattern of what Slurm tells of the job on a node, which launchers may drop.

    Ranks that are `tasks` are in a step of their own, and know that themselves.
    """
    return rf"(?!(?:{_OF_STEP})$)SLURMD?_.*" if tasks else r"SLURMD?_.*"


def environment_of_rank(rank: Rank) -> dict[str, Text]:
    """What srun would tell this rank alone, had it started one task a rank."""
    return {"SLURM_PROCID": str(rank.rank), "SLURM_LOCALID": str(rank.local_rank)}


def environment_of_node(node: Node, nodes: Sequence[Node], job: str) -> dict[str, Text]:
    """What srun would tell all ranks of a node: scripts that ask Slurm who they are find that.

    `job` is the id of the job; while it is empty, what the allocation decides is not known yet.
    """
    each = [len(other.ranks) for other in nodes]
    lie = ",".join(f"{count}(x{times})" if times > 1 else str(count) for count, times in _repeated(each))
    found: dict[str, Text] = {
        "SLURM_NODEID": str(node.number),
        "SLURM_GTIDS": ",".join(str(rank.rank) for rank in node.ranks),
        "SLURM_NTASKS": str(sum(each)),
        "SLURM_NPROCS": str(sum(each)),
        "SLURM_NNODES": str(len(nodes)),
        "SLURM_TASKS_PER_NODE": lie,
        "SLURM_STEP_NUM_TASKS": str(sum(each)),
        "SLURM_STEP_NUM_NODES": str(len(nodes)),
        "SLURM_STEP_TASKS_PER_NODE": lie,
        "SLURM_STEP_NODELIST": fold_hostlist(other.host.name for other in nodes) if job else Late.JOB_NODES,
        "SLURM_DISTRIBUTION": "block",
    }
    if len(set(each)) == 1:
        found["SLURM_NTASKS_PER_NODE"] = str(each[0])
    if not job:
        found.update(SLURM_JOB_ID=Late.JOB_ID, SLURM_CPUS_PER_TASK=Late.CPUS_PER_RANK)
    elif node.host.cpus_of_tasks is not None:
        found["SLURM_CPUS_PER_TASK"] = str(max(1, node.host.cpus_of_tasks // len(node.ranks)))
    return found


def _repeated(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """(number, how often it stands there in a row)."""
    return [(number, len(list(row))) for number, row in groupby(numbers)]


def salloc_argv(nodes: int, options: Sequence[str], command: Sequence[str]) -> tuple[str, ...]:
    """Run a command here that has so many nodes while it runs."""
    return ("salloc", f"--nodes={nodes}", *(f"--{option}" for option in options), *command)


def clean_env(env: Mapping[str, str]) -> dict[str, str]:
    """The environment for a program of Slurm that muster starts: all options stand on its command line."""
    return {name: value for name, value in env.items() if not re.fullmatch(NOT_FOR_SLURM, name)}


def for_sbatch(env: Mapping[str, str]) -> dict[str, str]:
    """The same for sbatch, with what somebody has chosen for all jobs."""
    return {**clean_env(env), **{name: value for name, value in env.items() if re.fullmatch(_FOR_SBATCH, name)}}


def exported(env: Mapping[str, str]) -> dict[str, str]:
    """What `clean` takes away and scripts may want: how much was asked for, and what an srun of theirs is to do."""
    ours = clean_env(env)
    return {name: value for name, value in env.items() if name not in ours and not re.fullmatch(_OF_TASKS, name)}


def cpus_by_host(env: Mapping[str, str], hosts: Sequence[str]) -> dict[str, int]:
    """How many CPUs the job has on each of its nodes, where somebody asked for CPUs of a task; else empty."""
    if "SLURM_CPUS_PER_TASK" not in env:
        return {}
    return dict(zip(hosts, counts(env.get("SLURM_JOB_CPUS_PER_NODE", ""))))


def step(
    hosts: Sequence[str], command: Sequence[str], job: str = "", gpus: int | None = 0, stdin: bool = False
) -> list[str]:
    """One task on each of these hosts, whatever the job was made with; `stdin` goes to the first task.

    `gpus` are those of each host, None where that is not known: what Slurm gives then differs with how the job was
    made. For one host of a job whose nodes have not equally many, only `--gpus` can name all that it has.
    """
    words = ["srun", *([f"--jobid={job}"] if job else []), f"--nodes={len(hosts)}", f"--ntasks={len(hosts)}"]
    words += ["--ntasks-per-node=1", f"--nodelist={','.join(hosts)}", "--overlap", "--mpi=none", "--export=ALL"]
    if gpus is not None:
        words.append("--gres=none" if not gpus else f"--gpus={gpus}" if len(hosts) == 1 else f"--gpus-per-node={gpus}")
    words += ["--cpu-bind=none"]  # the ranks share what the job has there; Slurm would give one core to one task
    words += ["--unbuffered", f"--input={'0' if stdin else 'none'}", "--kill-on-bad-exit=0", "--quiet"]
    return [*words, *command]


def ended_tasks(said: str) -> dict[str, str]:
    """The hosts on which a task of a step has failed, by what srun says while others still run: {host: how}."""
    found: dict[str, str] = {}
    for hosts, how in re.findall(r"^srun: error: (\S+): tasks? [\d,-]+: (.+)$", said, re.M):
        with contextlib.suppress(InvalidRequest):
            found.update(dict.fromkeys(unfold_nodes(hosts), how.strip()))
    return found


def tasks(job: Text, nodes: int, count: int, command: Sequence[str]) -> list[Text]:
    """So many tasks on the nodes of a job, laid out by the file that SLURM_HOSTFILE names."""
    words: list[Text] = ["srun", "--jobid=" + job, f"--nodes={nodes}", f"--ntasks={count}"]
    words += ["--distribution=arbitrary", "--overlap"]
    words += ["--overcommit"]  # the job may have been made for fewer tasks than it now gets ranks
    words += ["--mpi=none", "--export=ALL", "--cpu-bind=none"]
    words += [f"--input={'0' if count == 1 else 'none'}"]  # to several tasks srun would send a copy each
    words += ["--kill-on-bad-exit=1", "--unbuffered"]
    return [*words, *command]


def details(job: str) -> tuple[str, ...]:
    """Ask what a job has on each of its nodes; `gpus_there` reads the answer."""
    return ("scontrol", "show", "job", "--details", job)


def gpus_there(out: str, tasks: Mapping[str, int] | None = None) -> dict[str, int]:
    """How many GPUs the job has on each node: `Nodes=n[1-2] CPU_IDs=0-1 Mem=0 GRES=gpu:a100:2(IDX:0-1)`.

    No more than were asked for: with `--exclusive` Slurm counts all GPUs of a node, and gives a step those that were
    (`TresPerNode=gres:gpu:2`). `tasks`: how many tasks the job has on each node.
    """
    found = {}
    for nodes, gres in re.findall(r"\bNodes=(\S+) CPU_IDs=\S* Mem=\S* GRES=(\S*)", out):
        for host in unfold_nodes(nodes):
            found[host] = sum(gpus_of(gres).values())
    each, of_task, whole = (_gpus_asked(out, of) for of in ("Node", "Task", "Job"))
    for host, count in found.items():
        bounds = [count, *([each] if each else [])]
        if of_task and tasks is not None and host in tasks:
            bounds.append(of_task * tasks[host])
        found[host] = min(bounds)
    if whole and sum(found.values()) > whole:
        return {host: whole // len(found) + (number < whole % len(found)) for number, host in enumerate(found)}
    return found


def _gpus_asked(out: str, of: str) -> int:
    """`TresPerNode=gres:gpu:a100:2`, which newer ones write `gres/gpu:a100=2`: 2; 0 where that is not said."""
    said = re.search(rf"\bTresPer{of}=(\S+)", out)
    return sum(gpus_of(re.sub(r"gres[:/]", "", said[1]).replace("=", ":")).values()) if said else 0


def restarts(out: str) -> int:
    """`Requeue=1 Restarts=2 BatchFlag=1`, of the same answer: 2."""
    found = re.search(r"\bRestarts=(\d+)", out)
    return int(found[1]) if found else 0


KILL_WAIT = 30.0
"""What Slurm leaves between SIGTERM and SIGKILL when nobody has configured it."""


def configuration() -> tuple[str, ...]:
    """Ask how Slurm is configured; `kill_wait` and `name_of_cluster` read the answer."""
    return ("scontrol", "show", "config")


def kill_wait(out: str) -> float:
    """`KillWait = 30 sec`."""
    found = re.search(r"^KillWait\s*=\s*(\d+)", out, re.MULTILINE)
    return float(found[1]) if found else KILL_WAIT


def name_of_cluster(out: str) -> str:
    """`ClusterName = far`, of the same answer; empty where it is not said."""
    found = re.search(r"^ClusterName\s*=\s*(\S+)", out, re.MULTILINE)
    return found[1] if found else ""


# ---- the end of a job -----------------------------------------------------------------------------------------------

LONGEST_WARNING = 65535
"""The most seconds before the end of its time at which Slurm signals a job."""


def seconds_of(limit: str) -> float | None:
    """A time limit as Slurm reads it: `90` (minutes), `5:30`, `4:00:00`, `2-12`, `2-12:30:00`; None for others."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit.strip())
    if found is None:
        return None
    days, numbers = found[1], [int(number) for number in found.groups()[1:] if number is not None]
    if days is not None:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
        return int(days) * 86400.0 + hours * 3600 + minutes * 60 + seconds
    hours, minutes, seconds = [0, *numbers, 0][:3] if len(numbers) < 3 else numbers
    return hours * 3600.0 + minutes * 60 + seconds


def record(job: str) -> tuple[str, ...]:
    """Ask for the record of a job; `record_of` reads the answer."""
    return ("scontrol", "show", "job", job)


def record_of(out: str) -> JobRecord:
    """`JobState=RUNNING Reason=None …`; empty where a field is missing."""
    found = dict(re.findall(r"\b(JobState|Reason|StartTime|EndTime|PreemptTime)=(\S+)", out))
    state, reason, start, end = (found.get(name, "") for name in ("JobState", "Reason", "StartTime", "EndTime"))
    at = found.get("PreemptTime", "")
    # it may have had to make room before it was started again
    return JobRecord(state, reason, _when(start), _when(end), preempted=at[:1].isdigit() and at >= start)


def _when(text: str) -> float | None:
    """`2026-11-27T00:05:09`, local and without a zone, in seconds since 1970; None for `Unknown` and the like."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").timestamp()
    except (ValueError, OverflowError):
        return None


_DUE = {
    "TIME LIMIT": "time limit",
    "PREEMPTION": "preempted",
    "JOB REQUEUE": "requeued",
    "NODE FAILURE": "node failure",
}
_CANCELLED = re.compile(r"\*\*\* (JOB|STEP) \S+ ON \S+ CANCELLED AT \S+?(?: DUE TO ([A-Za-z ]+))?(?:,[^*]*)? \*\*\*")


def why_ended(said: str, found: JobRecord | None) -> str:
    """Why a job is being ended, one of `events.JOB_ENDS`; empty where that cannot be told yet.

    `said` is what slurmstepd wrote about the job and its steps: `*** JOB 7 ON n1 CANCELLED AT … DUE TO TIME LIMIT ***`.
    A step alone hears of a GraceTime, or is cancelled by its own number.
    """
    notes = _CANCELLED.findall(said)
    for _, due in notes:
        if due.strip().upper() in _DUE:
            return _DUE[due.strip().upper()]
    if found is not None and found.reason == "TimeLimit":
        return "time limit"
    if found is not None and found.preempted:
        return "preempted"
    if found is not None and found.reason == "NodeDown":
        return "node failure"
    if any(kind == "JOB" for kind, _ in notes) or (notes and found is not None):
        return "cancelled"
    return ""


# ---- looking --------------------------------------------------------------------------------------------------------

_FIELDS = ("%A", "%T", "%r", "%N", "%S", "%L", "%j")
"""`%A` and not `%i`: a task of an array has a number of its own in SLURM_JOB_ID, which `%i` writes as `12_3`."""
_SEPARATOR = "|"


class JobStatus(NamedTuple):
    """A job, as squeue shows it."""

    job: str
    state: str
    reason: str
    hosts: tuple[str, ...]
    start: str
    """When it is expected to start or has started; `N/A` when Slurm does not know yet."""
    left: str
    name: str


def queue(job: str = "", cluster: str = "", everybody: bool = False) -> tuple[str, ...]:
    """Ask for the states of one's jobs, or of one job, those that ended lately too; `queued` reads the answer.

    `cluster` is another one than the default. `everybody`: a job of another user is good too, as it is for root.
    """
    which = [f"--jobs={job}"] if job else []
    which += [f"--clusters={cluster}"] if cluster else []
    which += [] if everybody else ["--me"]
    return ("squeue", "--noheader", *which, "--states=all", "--format=" + _SEPARATOR.join(_FIELDS))


def no_such_job(err: str) -> bool:
    """Whether squeue failed because no job has that number, which it does once the job is older than MinJobAge."""
    return "Invalid job id specified" in err


def queued(out: str) -> dict[str, JobStatus]:
    """What squeue said, by the number of the job."""
    found = {}
    for line in out.splitlines():
        cells = line.strip().split(_SEPARATOR, len(_FIELDS) - 1)
        if len(cells) == len(_FIELDS):
            try:
                hosts = tuple(unfold_nodes(cells[3])) if cells[3] and not cells[3].startswith("(") else ()  # `(null)`
            except InvalidRequest:  # not as Slurm writes it today; one job must not hide all others
                hosts = (cells[3],)
            found[cells[0]] = JobStatus(cells[0], cells[1], cells[2], hosts, cells[4], cells[5], cells[6])
    return found


STATES: Mapping[str, Phase] = {
    **dict.fromkeys(
        ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"),
        Phase.PENDING,
    ),
    **dict.fromkeys(("RUNNING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING"), Phase.RUNNING),
    "COMPLETING": Phase.COMPLETING,
}
"""What a job does that has not ended."""

_REASONS = {
    "None": "not yet considered by the scheduler",
    "Resources": "it waits for nodes to become free",
    "Priority": "others come first",
    "BeginTime": "Slurm lets some time pass before it starts again",
    "Dependency": "it waits for another job",
    "DependencyNeverSatisfied": "the job that it waits for failed, so it never starts",
    "JobHeldUser": "it is held; `scontrol release` lets it go",
    "JobHeldAdmin": "an administrator holds it",
    "PartitionNodeLimit": "the partition has not so many nodes, so it never starts",
    "PartitionTimeLimit": "the partition allows less time, so it never starts",
    "PartitionConfig": "the partition has no such nodes, so it never starts",
    "ReqNodeNotAvail": "a node that it asked for is down or reserved",
    "QOSMaxGRESPerUser": "you use as many GPUs as you may",
    "AssocGrpGRES": "your group uses as many GPUs as it may",
    "QOSMaxJobsPerUserLimit": "you run as many jobs as you may",
    "AssocMaxJobsLimit": "you run as many jobs as you may",
    "Licenses": "it waits for a licence",
}


NEVER = frozenset({"DependencyNeverSatisfied", "PartitionNodeLimit", "PartitionTimeLimit", "PartitionConfig"})
"""The reasons for which a job waits for ever."""


def why_pending(seen: JobStatus) -> str:
    """Why a job has not started, in words, with what Slurm expects."""
    reason = seen.reason.strip("()")
    if reason == "None":
        return _REASONS["None"]
    words = _REASONS.get(reason.partition(",")[0], "")
    when = f"; expected at {seen.start}" if seen.start not in ("N/A", "Unknown", "") else ""
    return (f"{words} ({reason})" if words else reason) + when


def past(job: str) -> tuple[str, ...]:
    """Ask accounting how a job ended that squeue knows no more; `past_state` reads the answer."""
    return ("sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={job}", "--format=State")


def past_state(out: str) -> str:
    """`CANCELLED by 0` is CANCELLED; empty where accounting says nothing."""
    lines = out.strip().splitlines()
    return lines[-1].split()[0] if lines and lines[-1].split() else ""


def cancelled_by(out: str) -> str:
    """The number of the user who cancelled a job, of `CANCELLED by 1000`; empty where accounting does not say."""
    found = re.search(r"^CANCELLED by (\d+)", out, re.MULTILINE)
    return found[1] if found else ""


ENDS: Mapping[str, JobEnd] = {
    "TIMEOUT": JobEnd(RunState.TIMED_OUT, 124, "its time was over"),
    "CANCELLED": JobEnd(RunState.KILLED, 137, "it was cancelled", cancelled=True),
    "NODE_FAIL": JobEnd(RunState.BROKEN, 125, "a node failed"),
    "OUT_OF_MEMORY": JobEnd(RunState.BROKEN, 125, "it needed more memory than it had asked for"),
    "PREEMPTED": JobEnd(RunState.KILLED, 137, "it had to make room for another job"),
    "BOOT_FAIL": JobEnd(RunState.BROKEN, 125, "a node did not start"),
    "DEADLINE": JobEnd(RunState.TIMED_OUT, 124, "its deadline was over"),
    "FAILED": JobEnd(RunState.BROKEN, 125, "its batch script failed", failed=True),
    "COMPLETED": JobEnd(RunState.BROKEN, 125, "its batch script ended well"),
}
"""States from which a job does not come back. REVOKED is none: in a federation the job then runs on another cluster."""


def requeue(job: str, ending: bool = False) -> tuple[str, ...]:
    """Put a running job back into the queue; it keeps its number. One that is `ending` is not touched, unless said."""
    return ("scontrol", "requeue", *(() if ending else ("incomplete",)), job)


_NO_REQUEUE = (
    "already completing or completed",
    "is pending execution",
    "Invalid job id",
    "Only batch jobs",
    "presently disabled",
    "Access/permission denied",
)


def refuses_requeue(err: str) -> bool:
    """It will not put the job back, however often it is asked. All else may pass: no answer, a job in transition."""
    return any(words in err for words in _NO_REQUEUE)


def start_now(job: str) -> tuple[str, ...]:
    """Have a requeued job start as soon as it can, and not only after two minutes."""
    return ("scontrol", "update", f"JobId={job}", "StartTime=now")


def cancel(job: str) -> tuple[str, ...]:
    """End a job."""
    return ("scancel", job)


# ---- the machines ---------------------------------------------------------------------------------------------------


def _number(text: str) -> int:
    """The number that a field of Slurm's begins with, `8` of `8+`; 0 where it says `N/A` or nothing."""
    found = re.match(r"[0-9]{1,18}", text.strip())
    return int(found[0]) if found else 0


_NODE_FIELDS = ("%N", "%P", "%T", "%c", "%m", "%G", "%C", "%E")


def _takes_jobs(state: str) -> bool:
    """Slurm starts jobs there; `*` after a state says that the node does not respond."""
    return not state.endswith("*") and not re.match(r"down|drain|fail|unk|maint|power|future|reboot", state)


def machines() -> tuple[str, ...]:
    """Ask for all nodes; `nodes` reads the answer."""
    return ("sinfo", "--noheader", "--Node", "--format=" + _SEPARATOR.join(_NODE_FIELDS))


def nodes(out: str) -> list[NodeStatus]:
    """What sinfo said, a node once whatever the number of its partitions."""
    found: dict[str, NodeStatus] = {}
    for line in out.splitlines():
        cells = line.strip().split(_SEPARATOR)
        if len(cells) < len(_NODE_FIELDS):
            continue
        name, partition, state, cores, memory, gres, use, reason = cells[: len(_NODE_FIELDS)]
        before = found.get(name)
        partitions = (*(before.partitions if before else ()), partition.rstrip("*"))
        free = use.split("/")[1] if use.count("/") == 3 else "0"
        found[name] = NodeStatus(
            name,
            partitions,
            state,
            _number(cores),
            _number(free),
            _number(memory),
            gpus_of(gres),
            "" if reason == "none" else reason,
            _takes_jobs(state),
        )
    return list(found.values())


def gpus_of(gres: str) -> dict[str, int]:
    """`gpu:3090:4(S:0-1),gpu:2`: how many GPUs of each type."""
    found: dict[str, int] = {}
    for item in re.sub(r"\([^)]*\)", "", gres).split(","):
        name, *fields = item.strip().split(":")
        if name != "gpu":
            continue
        count = _number(fields.pop()) if fields and fields[-1][:1].isdigit() else 1
        kind = ":".join(fields)
        found[kind] = found.get(kind, 0) + count
    return found


def in_use() -> tuple[str, ...]:
    """Ask which GPUs running jobs have; `used_gpus` reads the answer."""
    return ("sinfo", "--noheader", "--Node", "--Format=NodeList:128,GresUsed:256")


def used_gpus(out: str) -> dict[str, dict[str, int]]:
    """GPUs in use, by node and type: `n1   gpu:toy:2(IDX:0-1)`."""
    found = {}
    for line in out.splitlines():
        words = line.split()
        if len(words) == 2:
            found[words[0]] = gpus_of(words[1])
    return found


_JOB_FIELDS = ("%i", "%u", "%P", "%T", "%D", "%b", "%M", "%l", "%r")


def everybody() -> tuple[str, ...]:
    """Ask for the whole queue; `jobs` reads the answer."""
    return ("squeue", "--noheader", "--format=" + _SEPARATOR.join(_JOB_FIELDS))


def jobs(out: str) -> list[QueueEntry]:
    """What squeue said of everybody's jobs."""
    found = []
    for line in out.splitlines():
        cells = line.strip().split(_SEPARATOR)
        if len(cells) >= len(_JOB_FIELDS):
            job, user, partition, state, count, gpus, used, limit, reason = cells[: len(_JOB_FIELDS)]
            found.append(QueueEntry(job, user, partition, state, _number(count), gpus, used, limit, reason))
    return found
