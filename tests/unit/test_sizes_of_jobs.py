"""Options that count per node, for schedulers that get a size of each node."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def planned(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text("")
    env = {"MUSTER_HOME": str(folder / "home"), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    argv = [sys.executable, "-m", "muster", "plan", *words, "train.py"]
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=240)


@pytest.mark.parametrize("scheduler", ["--pbs", "--lsf", "--flux"])
@pytest.mark.parametrize("option", [("--gpus-per-node", "8"), ("--cpus-per-task", "4")])
def test_what_is_counted_per_node_requires_the_number_of_nodes(
    tmp_path: Path, scheduler: str, option: tuple[str, str]
) -> None:
    """Without it each rank was its own node, with that many GPUs."""
    done = planned(tmp_path, scheduler, "-n", "16", *option)
    assert 2 == done.returncode
    assert "it is counted per node, and the number of nodes is not set" in done.stderr and "-N NODES" in done.stderr


@pytest.mark.parametrize("scheduler", ["--pbs", "--lsf", "--flux"])
def test_a_type_of_gpu_is_not_lost(tmp_path: Path, scheduler: str) -> None:
    done = planned(tmp_path, scheduler, "-N", "2", "--gpus-per-node", "a100:8")
    assert (2, True) == (
        done.returncode,
        "--gpus-per-node a100:8: muster does not request a type of GPU" in done.stderr,
    )


@pytest.mark.parametrize(("mem", "megabytes"), [("64000", "64000"), ("64G", "65536")])
def test_memory_without_a_unit_is_megabytes(tmp_path: Path, mem: str, megabytes: str) -> None:
    assert f"mem={megabytes}mb" in planned(tmp_path, "--pbs", "-N", "2", "-g", "1", "--mem", mem).stdout
    refused = planned(tmp_path, "--pbs", "-N", "2", "-g", "1", "--mem", "0")
    assert (2, True) == (refused.returncode, "--mem 0: not an amount of memory" in refused.stderr)


@pytest.mark.parametrize("scheduler", ["--pbs", "--lsf", "--flux", "--sge"])
def test_a_sweep_is_refused_by_plan_as_by_run(tmp_path: Path, scheduler: str) -> None:
    done = planned(tmp_path, scheduler, "-N", "1", "-g", "1", "--sweep", "lr=1,2")
    assert (2, True) == (done.returncode, "sweeps cannot be submitted to" in done.stderr)


@pytest.mark.parametrize(
    ("scheduler", "name"), [("--pbs", "W"), ("--lsf", "R"), ("--flux", "setattr"), ("--sge", "ac")]
)
def test_an_option_of_the_submit_program_may_be_repeated(tmp_path: Path, scheduler: str, name: str) -> None:
    own = f"{scheduler}-opt"
    done = planned(tmp_path, scheduler, "-N", "1", "-g", "1", own, f"{name}=one=1", own, f"{name}=two=2")
    assert ("", True, True) == (done.stderr, "one=1" in done.stdout, "two=2" in done.stdout), done
