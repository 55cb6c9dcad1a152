"""Ranks on hosts have the environment that `muster plan` shows."""

from __future__ import annotations

import json

import environments
import pytest
from lab_cluster import LabCluster

LONG = ("launch", "spawn", "accelerate", "deepspeed")
"""They import torch, or more, and are checked on this machine by `make test`."""


@pytest.mark.parametrize("launcher", environments.launchers("ssh", *LONG, but=["ray"]))
def test_ranks_on_hosts_have_what_the_plan_says(there: LabCluster, launcher: str) -> None:
    line = ["--launcher", launcher, "--hosts", "n1,n2", "-g", "2", "--env", "CHOSEN=$MASTER_ADDR"]
    line += [there.script(environments.SCRIPT), str(there.folder)]
    plan = json.loads(there.muster("plan", "--json", *line).stdout)
    done = there.muster("run", *line)
    assert 0 == done.returncode, done.stderr
    plan = json.loads(json.dumps(plan).replace(plan["run"], there.run.name))
    environments.check(plan, there.folder, {"LC_CTYPE": "Python itself, where a host has no locale (PEP 538)"})
