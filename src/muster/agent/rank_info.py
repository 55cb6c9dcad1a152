"""Detection of a process's rank from the variables of launchers and process managers, in one table.

Each row was taken from a real run or from the documentation of that launcher. Standard library only: the shim of
external launchers (`rank_shim.py`) and `muster.detect_rank` use it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple


class Identity(NamedTuple):
    """A rank, as its launcher describes it."""

    launcher: str
    """Name of the launcher, for users."""
    rank: int
    world_size: int | None
    """None if only the launcher's library knows it."""
    local_rank: int | None
    local_world_size: int | None
    node_rank: int | None
    """Index of the node, if the launcher tells it."""


class _LauncherEnv(NamedTuple):
    launcher: str
    needs: tuple[str, ...]
    """Variables that are all set by this launcher."""
    rank: str
    size: str
    local_rank: tuple[str, ...] = ()
    local_size: tuple[str, ...] = ()
    node_rank: tuple[str, ...] = ()


# Innermost first: `srun torchrun` sets both kinds of variables, and srun's describe the agent, not the rank.
_DIALECTS = (
    _LauncherEnv(
        "torchrun",
        ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
        "RANK",
        "WORLD_SIZE",
        ("LOCAL_RANK",),
        ("LOCAL_WORLD_SIZE", "LOCAL_SIZE"),
        ("GROUP_RANK", "NODE_RANK", "CROSS_RANK"),
    ),
    _LauncherEnv(
        "submitit's local executor",
        ("SUBMITIT_LOCAL_GLOBALID",),
        "SUBMITIT_LOCAL_GLOBALID",
        "SUBMITIT_LOCAL_NTASKS",
        ("SUBMITIT_LOCAL_LOCALID",),
        (),
        ("SUBMITIT_LOCAL_NODEID",),
    ),
    # not OMPI_COMM_WORLD_NODE_RANK for the node: it is the rank among all jobs of the node
    _LauncherEnv(
        "Open MPI's mpirun",
        ("OMPI_COMM_WORLD_RANK",),
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        ("OMPI_COMM_WORLD_LOCAL_RANK",),
        ("OMPI_COMM_WORLD_LOCAL_SIZE",),
    ),
    _LauncherEnv(
        "MVAPICH2's mpirun_rsh",
        ("MV2_COMM_WORLD_RANK",),
        "MV2_COMM_WORLD_RANK",
        "MV2_COMM_WORLD_SIZE",
        ("MV2_COMM_WORLD_LOCAL_RANK",),
        ("MV2_COMM_WORLD_LOCAL_SIZE",),
    ),
    _LauncherEnv(
        "jsrun",
        ("JSM_NAMESPACE_RANK",),
        "JSM_NAMESPACE_RANK",
        "JSM_NAMESPACE_SIZE",
        ("JSM_NAMESPACE_LOCAL_RANK",),
        ("JSM_NAMESPACE_LOCAL_SIZE",),
    ),
    _LauncherEnv(
        "Cray's mpiexec",
        ("PALS_RANKID",),
        "PALS_RANKID",
        "PMI_SIZE",
        ("PALS_LOCAL_RANKID", "PMI_LOCAL_RANK"),
        ("PMI_LOCAL_SIZE",),
        ("PALS_NODEID",),
    ),
    # `srun --mpi=pmi2` sets PMI_RANK too: Hydra's own variables must be set as well
    _LauncherEnv(
        "MPICH's mpiexec",
        ("PMI_RANK", "MPI_LOCALRANKID"),
        "PMI_RANK",
        "PMI_SIZE",
        ("MPI_LOCALRANKID",),
        ("MPI_LOCALNRANKS",),
    ),
    _LauncherEnv(
        "MPICH's mpiexec", ("PMI_ID", "PMI_PORT"), "PMI_ID", "PMI_SIZE", ("MPI_LOCALRANKID",), ("MPI_LOCALNRANKS",)
    ),
    _LauncherEnv("Flux", ("FLUX_TASK_RANK",), "FLUX_TASK_RANK", "FLUX_JOB_SIZE", ("FLUX_TASK_LOCAL_ID",)),
    # a batch script also has SLURM_PROCID and SLURM_NTASKS, but is one process: it has no variable of a step's tasks
    _LauncherEnv(
        "srun",
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
        "SLURM_PROCID",
        "SLURM_STEP_NUM_TASKS",
        ("SLURM_LOCALID",),
        (),
        ("SLURM_NODEID",),
    ),
)


def detect(env: Mapping[str, str] | None = None) -> Identity | None:
    """Return the rank of this process, from its launcher's variables in `env` (or os.environ).

    None for a process without ranks. RANK and WORLD_SIZE without LOCAL_RANK describe a pod or a node on some platforms,
    and are not taken for a rank's.
    """
    env = os.environ if env is None else env
    for dialect in _DIALECTS:
        if all(_number(env, name) is not None for name in dialect.needs if name != "PMI_PORT"):
            if "PMI_PORT" in dialect.needs and not env.get("PMI_PORT"):
                continue
            rank = _number(env, dialect.rank)
            assert rank is not None
            return Identity(
                dialect.launcher,
                rank,
                _number(env, dialect.size),
                _first(env, dialect.local_rank),
                _slurm_tasks_here(env) if dialect.launcher == "srun" else _first(env, dialect.local_size),
                _first(env, dialect.node_rank),
            )
    return None


def counts(text: str) -> list[int]:
    """Return 2, 2, 2, 1 from `2(x3),1`, Slurm's notation for the number of tasks of each node."""
    found: list[int] = []
    for count, times in re.findall(r"([0-9]{1,9})(?:\(x([0-9]{1,6})\))?", text):
        found += [int(count)] * int(times or 1)
    return found


def _slurm_tasks_here(env: Mapping[str, str]) -> int | None:
    tasks, node = counts(env.get("SLURM_STEP_TASKS_PER_NODE", "")), _number(env, "SLURM_NODEID")
    return tasks[node] if node is not None and node < len(tasks) else None


def _first(env: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    return next((number for number in (_number(env, name) for name in names) if number is not None), None)


def _number(env: Mapping[str, str], name: str) -> int | None:
    text = env.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None
