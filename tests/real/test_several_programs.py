"""Roles: several programs in one run on this machine, each with a rendezvous of its own, which ends as one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import outcome

Script = Callable[..., Path]

TRAINER = """
import json, os, socket, sys
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
roles = json.loads(os.environ["MUSTER_ROLES"])
if dist.get_rank() == 0:
    server = roles["rollout"]
    for _ in range(2400):
        try:
            link = socket.create_connection((server["addresses"][0], server["port"]), 1)
            break
        except OSError:
            import time
            time.sleep(0.05)
    link.sendall(b"weights\\n")
    print(link.makefile().readline().strip(), flush=True)
dist.barrier()
print(json.dumps({
    "world": total.item(),
    "ranks": [role["ranks"] for role in roles.values()],
    **{name: os.environ.get(name) for name in ("RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "MINE", "THEIRS")},
}))
dist.destroy_process_group()
"""

# it never ends by itself
ROLLOUT = """
import json, os, socket, time
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
print(json.dumps({
    "world": total.item(),
    **{name: os.environ.get(name) for name in ("RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "MINE", "THEIRS")},
}), flush=True)
dist.barrier()
if dist.get_rank() == 0:
    server = socket.create_server(("", json.loads(os.environ["MUSTER_ROLES"])["rollout"]["port"]))
    link, _ = server.accept()
    with link.makefile("rw") as file:
        file.write("took " + file.readline())
time.sleep(1000)
"""


@pytest.mark.parametrize("launcher", ["fork", "torchrun"])
def test_two_programs_find_each_other_and_end_with_the_main_one(muster: Any, script: Script, launcher: str) -> None:
    """Also if each role has a torchrun, which both number their ranks from 0, on this one machine."""
    how = ["--launcher", launcher]
    first = ["--role", "trainer", "--main", "-g", "2", "--env", "MINE=1", *how, str(script(TRAINER, "train.py"))]
    second = ["--role", "rollout", "-g", "3", "--env", "THEIRS=2", *how, str(script(ROLLOUT, "serve.py"))]
    done = muster("run", *first, ":", *second)
    assert done.returncode == 0, done.stderr
    assert "role trainer succeeded in" in done.stderr
    assert "terminated ranks 2-4 (rollout:0-2)" in done.stderr
    told = {}
    for rank in range(5):
        lines = muster.log(rank).decode().splitlines()
        told[rank] = json.loads(lines[-1])
    assert [told[rank]["RANK"] for rank in range(5)] == ["0", "1", "0", "1", "2"]
    assert [told[rank]["world"] for rank in range(5)] == [2, 2, 3, 3, 3]
    assert [(told[rank]["ROLE_NAME"], told[rank]["ROLE_WORLD_SIZE"]) for rank in (0, 4)] == [
        ("trainer", "2"),
        ("rollout", "3"),
    ]
    assert [(told[rank]["MINE"], told[rank]["THEIRS"]) for rank in (1, 2)] == [("1", None), (None, "2")]
    assert told[0]["ranks"] == [2, 3]
    assert muster.log(0).startswith(b"took weights\n")
    assert "[trainer:0] took weights" in done.stdout
    assert "[rollout:2] {" in done.stdout
    found = outcome(muster)
    assert [role["name"] for role in found["roles"]] == ["trainer", "rollout"]
    assert [end["by_muster"] for end in found["exits"]] == [False, False, True, True, True]
    shown = muster("show").stdout
    assert "role     trainer: 2 ranks" in shown
    assert "role     rollout: 3 ranks" in shown
    assert muster("logs", "--role", "trainer").stdout.count("[trainer:") == 3
    assert "trainer: " in muster("ps").stdout


def test_the_first_failure_ends_all_roles_and_is_named(muster: Any, script: Script) -> None:
    fails = """
import os, pathlib, time
while not pathlib.Path("here").exists():
    time.sleep(0.02)
if os.environ["RANK"] == "1":
    raise ValueError("bad reward")
time.sleep(1000)
"""
    waits = "import pathlib, time; pathlib.Path('here').touch(); time.sleep(1000)"
    first = ["--role", "trainer", "-g", "1", "--launcher", "exec", str(script(waits, "train.py"))]
    done = muster("run", *first, ":", "--role", "reward", "-g", "2", str(script(fails, "reward.py")))
    assert done.returncode == 1, done.stderr
    assert "rank 2 (reward:1)" in done.stderr
    assert "ranks 0-1 (trainer:0, reward:0): terminated by muster (SIGTERM)" in done.stderr
    assert outcome(muster)["root_cause"]["rank"] == 2


def test_the_plan_of_roles(muster: Any, script: Script) -> None:
    words = ["--role", "a", "-g", "2", str(script("", "a.py")), ":", "--role", "b", "-g", "1", "--", "sleep", "1"]
    text = muster("plan", *words).stdout
    assert "role      a: ranks 0-1 of the run" in text
    assert "role      b: rank 2 of the run" in text
    in_job = muster("plan", "--slurm", *words).stdout
    assert in_job.startswith("#!/bin/")
    assert "role      b: rank 2 of the run on node-1, rendezvous on node-1, launcher exec" in in_job
    unknown = muster("plan", "--slurm", *["auto" if word == "2" else word for word in words]).stdout
    assert "# the roles: the number of ranks per node is unknown until Slurm allocates the nodes" in unknown
    plan = json.loads(muster("plan", "--json", *words).stdout)
    assert [rank["env"]["WORLD_SIZE"] for rank in plan["ranks"]] == ["2", "2", "1"]
    assert [role["name"] for role in plan["roles"]] == ["a", "b"]


def test_a_detached_run_restarts_all_roles_and_is_killed_as_one(muster: Any, script: Script) -> None:
    once = """
import os, time
assert os.environ["TORCHELASTIC_RESTART_COUNT"] == "1", "the first time"
print("again", os.environ["MASTER_PORT"], flush=True)
time.sleep(1000)
"""
    words = ["--role", "a", "-g", "1", "--launcher", "exec", "--max-restarts", "1", str(script(once, "a.py"))]
    started = muster("run", "-d", *words, ":", "--role", "b", "--launcher", "exec", str(script(once, "b.py")))
    assert started.returncode == 0, started.stderr
    with muster.start("logs", "-f", "last") as follow:
        assert follow.stdout is not None
        seen: set[str] = set()
        for line in follow.stdout:
            if "again" in line:
                seen.add(line)
            if len(seen) == 2:
                break
        follow.terminate()
    ports = {line.split()[-1] for line in seen}
    assert len(ports) == 2, seen  # each role has a store of its own
    assert muster("kill", "last").returncode == 0
    found = outcome(muster)
    assert (found["state"], found["attempt"]) == ("killed", 1)
    assert len(found["exits"]) == 2
