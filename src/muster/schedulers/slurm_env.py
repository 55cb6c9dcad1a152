"""Slurm's environment variables: the allocation they describe, and those for ranks and for Slurm's programs."""

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
    """Return the allocation of salloc, a batch script or a step; None outside one. Raises `InvalidRequest`."""
    job = env.get("SLURM_JOB_ID")
    if job and env.get("SLURM_HET_SIZE", "1") not in ("", "1"):
        raise InvalidRequest(
            f"job {job} is heterogeneous (SLURM_HET_SIZE={env['SLURM_HET_SIZE']}), which muster does not support",
            "request one kind of node; programs with different needs can be roles of one job (`muster run --role`)",
        )
    if not job or not env.get("SLURM_JOB_NODELIST"):
        return None
    hosts = tuple(unfold_nodes(env["SLURM_JOB_NODELIST"]))
    return Allocation(job, hosts, number_of(env.get("SLURM_RESTART_COUNT", "")), tasks_per_node(env))


def tasks_per_node(env: Mapping[str, str]) -> tuple[int, ...]:
    """Return the number of tasks of each node from SLURM_TASKS_PER_NODE: `2(x3),1` is 2, 2, 2, 1; empty if unset."""
    return tuple(counts(env.get("SLURM_TASKS_PER_NODE", "")))


_KEPT = (
    # the cluster and the user
    r"SLURM_(?:CONF|CONF_SERVER|JWT|CLUSTER_NAME|WORKING_CLUSTER"
    # the job: none of Slurm's programs reads an option from these
    r"|JOB_\w+|JOBID|SUBMIT_\w+|ARRAY_\w+|RESTART_COUNT|NODELIST|NNODES|NODE_ALIASES|TOPOLOGY_\w+"
    r"|GPUS_ON_NODE|CPUS_ON_NODE)"
)

_OF_SLURM = r"(?:SLURM|SRUN|SBATCH|SALLOC|SQUEUE|SCANCEL|SINFO|SACCT|SCONTROL|PMI|PMI2|PMIX)_\w+"

NOT_FOR_SLURM = rf"(?!(?:{_KEPT})$){_OF_SLURM}"
"""Pattern of the variables that Slurm's programs read options from, set for an outer step or for other programs."""

_FOR_SBATCH = (
    r"SBATCH_(ACCOUNT|PARTITION|QOS|RESERVATION|CONSTRAINT|TIMELIMIT|WCKEY|EXCLUSIVE|GRES|GPUS_PER_NODE"
    r"|MEM_PER_(CPU|GPU|NODE))"
)
"""Variables with which a user sets defaults for all jobs: accounting and choice of nodes."""

_OF_TASKS = (
    r"SLURM_(NTASKS|NPROCS|N?TASKS_PER_NODE|STEP\w*|PROCID|LOCALID|NODEID|GTIDS|TASK_PID|DISTRIBUTION|CPUS_PER_TASK"
    r"|CPU_BIND\w*|MEM_BIND\w*|LAUNCH_\w+|SRUN_COMM_\w+|PRIO_PROCESS|UMASK|OPEN_MODE)|SRUN_DEBUG|PMI\w*"
)
"""Variables that identify a task of Slurm or describe the task layout; ranks get theirs from `environment_of_node`."""

OF_AGENTS = r"SLURM_(NTASKS_PER_NODE|CPU_BIND\w*|MEM_BIND\w*|CPUS_PER_TASK|OVERCOMMIT)|SRUN_\w+"
"""Pattern of the variables that describe how the one agent per node was requested, which says nothing about the ranks.
"""

_OF_STEP = r"SLURM_(?:STEP_?ID|STEP_LAUNCHER_PORT|SRUN_COMM_\w+|TASK_PID|LAUNCH_NODE_IPADDR|PRIO_PROCESS|UMASK)"
"""Variables of a task that hold only for the step in which it runs."""

LAYOUT_OF_TASKS = rf"(?!(?:{_OF_STEP})$)(?:SLURMD?|SRUN)_.*"
"""Pattern of the variables of a task with srun's task layout, which says nothing about the ranks."""


def of_the_job(tasks: bool) -> str:
    """Return a pattern of Slurm's variables about the job on a node, which launchers may drop.

    Ranks that are `tasks` run in a step of their own and get the variables of that step from Slurm.
    """
    return rf"(?!(?:{_OF_STEP})$)SLURMD?_.*" if tasks else r"SLURMD?_.*"


def environment_of_rank(rank: Rank) -> dict[str, Text]:
    """Return the variables that srun sets per task, as if it had started one task per rank."""
    return {"SLURM_PROCID": str(rank.rank), "SLURM_LOCALID": str(rank.local_rank)}


def environment_of_node(node: Node, nodes: Sequence[Node], job: str) -> dict[str, Text]:
    """Return the variables that srun sets for all tasks of a node, for scripts that read their rank from Slurm.

    `job` is the job ID; while it is empty, values that depend on the allocation are placeholders (`Late`).
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
    """Return (number, how many times it occurs in a row) for each run of equal numbers."""
    return [(number, len(list(row))) for number, row in groupby(numbers)]


def clean_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a program of Slurm that muster starts: all its options are on its command line."""
    return {name: value for name, value in env.items() if not re.fullmatch(NOT_FOR_SLURM, name)}


def for_sbatch(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for sbatch: `clean_env` and the defaults that the user set for all jobs."""
    own = {name: value for name, value in env.items() if re.fullmatch(_FOR_SBATCH, name)}
    # a job without GPUs would keep those of the job from which it is submitted
    return {**{name: value for name, value in clean_env(env).items() if name not in _GPUS_OF_JOB}, **own}


def exported(env: Mapping[str, str]) -> dict[str, str]:
    """Return variables that `clean_env` drops and scripts may need: the request, and options for their own srun."""
    ours = clean_env(env)
    return {name: value for name, value in env.items() if name not in ours and not re.fullmatch(_OF_TASKS, name)}


_GPUS_OF_JOB = (
    "SLURM_GPUS",
    "SLURM_GPUS_PER_NODE",
    "SLURM_GPUS_PER_TASK",
    "SLURM_GPUS_PER_SOCKET",
    "SLURM_JOB_GPUS",
    "SLURM_GPUS_ON_NODE",
)
"""Variables of a job with GPUs. The first ones repeat the request; salloc and sbatch 22.05 set these even where the job
got no GPU. The last two are those of the node on which a batch script or a step runs."""


def gpus_claimed(env: Mapping[str, str]) -> str:
    """Return the variable that says that the job has GPUs, such as `SLURM_GPUS=6`; empty if there is none."""
    return next((f"{name}={env[name]}" for name in _GPUS_OF_JOB if env.get(name, "0") not in ("", "0")), "")


def cpus_by_host(env: Mapping[str, str], hosts: Sequence[str]) -> dict[str, int]:
    """Return the number of CPUs of the job on each host if CPUs per task were requested; otherwise empty."""
    if "SLURM_CPUS_PER_TASK" not in env:
        return {}
    return dict(zip(hosts, counts(env.get("SLURM_JOB_CPUS_PER_NODE", ""))))
