"""Detection of ranks from environments recorded in the lab: rank 2 of 3 on two nodes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from muster.agent.rank_info import Identity, counts, detect

RECORDED = Path(__file__).parent / "environments"


def recorded(name: str) -> dict[str, str]:
    """The variables that a launcher set."""
    lines = (RECORDED / f"{name}.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("srun", Identity("srun", 2, 3, 0, 1, 1)),
        ("srun-pmi2", Identity("srun", 2, 3, 0, 1, 1)),
        ("openmpi", Identity("Open MPI's mpirun", 2, 3, 0, 1, None)),
        ("hydra", Identity("MPICH's mpiexec", 2, 3, 0, 1, None)),
        ("hydra-pmi-port", Identity("MPICH's mpiexec", 2, None, 0, 1, None)),
        ("torchrun", Identity("torchrun", 1, 2, 1, 2, 0)),
        ("accelerate", Identity("torchrun", 1, 2, 1, 2, 0)),
        ("deepspeed", Identity("torchrun", 1, 2, 1, 2, 0)),
        ("submitit-local", Identity("submitit's local executor", 1, 2, 1, None, 0)),
        # the inner launcher's variables count: srun started two agents of torchrun
        ("srun-torchrun", Identity("torchrun", 3, 4, 1, 2, 1)),
    ],
)
def test_recorded_environments(name: str, expected: Identity) -> None:
    assert expected == detect(recorded(name))


def test_a_batch_script_is_not_a_rank() -> None:
    """It has SLURM_PROCID and the SLURM_NTASKS of its job, and is one process."""
    env = recorded("sbatch")
    assert {"SLURM_PROCID", "SLURM_NTASKS"} <= set(env)
    assert detect(env) is None


def test_an_mpirun_inside_a_step_is_the_inner_one() -> None:
    """Processes that Open MPI starts through srun inherit the variables of its daemon."""
    found = detect({**recorded("srun"), **recorded("openmpi")})
    assert found is not None
    assert ("Open MPI's mpirun", 2) == (found.launcher, found.rank)


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "job-0"},  # pods of Kubeflow, nodes of PAI
        {"OMPI_COMM_WORLD_NODE_RANK": "0"},
        {"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
    ],
)
def test_processes_that_are_not_ranks(env: dict[str, str]) -> None:
    assert detect(env) is None


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        (
            {"PALS_RANKID": "5", "PALS_LOCAL_RANKID": "1", "PMI_SIZE": "8", "PMI_LOCAL_SIZE": "4", "PALS_NODEID": "1"},
            Identity("Cray's mpiexec", 5, 8, 1, 4, 1),
        ),
        (
            {"MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_LOCAL_RANK": "1"},
            Identity("MVAPICH2's mpirun_rsh", 1, 2, 1, None, None),
        ),
        (
            {"JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"},
            Identity("Open MPI's mpirun", 1, None, None, None, None),
        ),
        (
            {"FLUX_TASK_RANK": "3", "FLUX_JOB_SIZE": "4", "FLUX_TASK_LOCAL_ID": "0"},
            Identity("Flux", 3, 4, 0, None, None),
        ),
    ],
)
def test_managers_that_the_lab_has_not(env: dict[str, str], expected: Identity) -> None:
    assert expected == detect(env)


@pytest.mark.parametrize(("text", "expected"), [("2(x3),1", [2, 2, 2, 1]), ("4", [4]), ("", [])])
def test_tasks_of_nodes(text: str, expected: list[int]) -> None:
    assert expected == counts(text)


def test_it_imports_no_torch() -> None:
    line = "import sys, muster; print(muster.detect_rank().rank, 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", line], env={**os.environ, **recorded("torchrun")}, capture_output=True, text=True
    )
    assert "1 False\n" == done.stdout, done.stderr
