"""`muster run --slurm`, killed after sbatch has accepted the job and before muster has recorded it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cutting import POSSIBLE
from lab_cluster import LabCluster
from waiting import until

pytestmark = pytest.mark.skipif(not POSSIBLE, reason="system calls are counted on x86-64 only")

CUT = """
import os, sys
from cutting import run_cut
path, home, about, *words = sys.argv
start = lambda: os.execv(sys.executable, [sys.executable, "-m", "muster", *words])
print(run_cut(start, home, 0, about=about).status)
"""


@pytest.mark.parametrize(
    ("more", "about", "jobs", "told"),
    [
        ((), "job.json", 1, "succeeded"),
        (("--array", "0-1"), "job.json", 2, "2 ok"),
        (("--chain", "2"), ".0/job.json", 1, "1 ok, 1 not started"),
    ],
    ids=["one job", "an array", "the first part of a chain"],
)
def test_a_job_records_itself(there: LabCluster, more: tuple[str, ...], about: str, jobs: int, told: str) -> None:
    words = ("run", "--slurm", "-d", "-N", "1", "-g", "1", "--launcher", "exec", *more, "--", "true")
    argv = [sys.executable, there.script(CUT, "cut.py"), str(there.home), about, *words]
    there.home.mkdir()
    env = {**there.lab.environment(), **there.env, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = there.lab.run("head", argv, env=env, cwd=str(there.folder), timeout=120)
    assert "-9" == done.stdout.strip(), f"{done.stdout}{done.stderr}"
    runs = there.home / "runs"
    until(lambda: jobs == len(list(runs.glob("*/outcome.json"))), "the job has run")
    code = there.muster("wait", "last").returncode
    assert (code == 0) == ("not started" not in told)
    assert told in there.muster("ps").stdout
    there.nothing_left()
