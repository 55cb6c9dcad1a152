"""Ranks have the environment that `muster plan` shows, with each installed launcher."""

from __future__ import annotations

import json
from typing import Any

import environments
import pytest


@pytest.mark.parametrize("launcher", environments.launchers("local", "ray", "deepspeed", "accelerate", "submitit"))
def test_ranks_have_what_the_plan_says(muster: Any, script: Any, launcher: str) -> None:
    """The launcher does too; besides, they have the known additions of that launcher."""
    (told,) = [row for row in json.loads(muster("launchers", "--json").stdout) if row["name"] == launcher]
    if not told["installed"]:
        pytest.skip(f"{launcher} not found")
    muster.env.update(ROLE_NAME="of the person", CUDA_VISIBLE_DEVICES="7", A_TEXT="$MASTER_PORT and\n$HOME")
    line = ["--launcher", launcher, "-g", "2", "--env", "CHOSEN=$MASTER_ADDR", str(script(environments.SCRIPT)), "."]
    plan = json.loads(muster("plan", "--json", *line).stdout)
    done = muster("run", *line, timeout=240)
    assert 0 == done.returncode, done.stderr
    plan = json.loads(json.dumps(plan).replace(plan["run"], muster.newest().name))
    environments.check(plan, muster.cwd)
