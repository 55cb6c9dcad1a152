"""Slurm: the allocation that the environment tells of, and the variables of ranks and of Slurm's programs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from muster.agent.rank_info import counts
from muster.core.hostlist import fold_hostlist
from muster.core.model import Late, Node, Rank, Text
from muster.errors import InvalidRequest
from muster.schedulers.scheduler import Allocation
from muster.schedulers.slurm_values import number_of, unfold_nodes


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
    return Allocation(job, hosts, number_of(env.get("SLURM_RESTART_COUNT", "")), tasks_per_node(env))


def tasks_per_node(env: Mapping[str, str]) -> tuple[int, ...]:
    """`2(x3),1` of SLURM_TASKS_PER_NODE is 2, 2, 2, 1; empty where it is not said."""
    return tuple(counts(env.get("SLURM_TASKS_PER_NODE", "")))


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
