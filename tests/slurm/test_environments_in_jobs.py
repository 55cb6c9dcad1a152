"""Ranks of a Slurm job have the environment that `muster plan` shows before the job is submitted."""

from __future__ import annotations

import json

import environments
import pytest
from lab_cluster import LabCluster

LONG = ("launch", "spawn", "accelerate", "deepspeed")
"""They import torch, or more, and are checked on this machine by `make test`."""


@pytest.mark.parametrize("launcher", environments.launchers("slurm", *LONG, but=["ray"]))
def test_ranks_of_a_job_have_what_the_plan_says(there: LabCluster, launcher: str) -> None:
    line = ["--slurm", "--launcher", launcher, "-N", "2", "-g", "2", "--env", "CHOSEN=$MASTER_ADDR"]
    line += [there.script(environments.SCRIPT), str(there.folder)]
    plan = json.loads(there.muster("plan", "--json", *line).stdout)
    assert {"late": "JOB_NODES"} == plan["ranks"][3]["env"]["SLURM_STEP_NODELIST"]
    done = there.muster("run", *line)
    assert 0 == done.returncode, done.stderr
    environments.check(json.loads(json.dumps(plan).replace(plan["run"], there.run.name)), there.folder)
