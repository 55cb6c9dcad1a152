"""Roles in one job of Slurm: its nodes are divided between them, and no role gets a variable of another."""

from __future__ import annotations

import json

import pytest
from lab_cluster import LabCluster

SCRIPT = """
import json, os, socket
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
names = ("RANK", "ROLE_NAME", "GROUP_RANK", "PLAIN", "A_TOKEN", "B_TOKEN", "SET_UP", "SLURM_NNODES", "SLURM_PROCID")
found = {name: os.environ.get(name) for name in names}
found["others"] = sorted(name for name in os.environ if name.startswith("MUSTER_OF_ROLE_"))
found["roles"] = {name: role["hosts"] for name, role in json.loads(os.environ["MUSTER_ROLES"]).items()}
print(json.dumps({"host": socket.gethostname(), "sum": total.item(), **found}), flush=True)
dist.destroy_process_group()
"""


def roles(there: LabCluster, launcher: str = "fork") -> tuple[str, ...]:
    script = there.script(SCRIPT)
    how = ("--launcher", launcher, "--env", "A_TOKEN=secret of a", "--env", "PLAIN=a")
    first = (*how, "--role", "trainer", "-N", "2", "-g", "1", script)
    of_second = ("--env", "B_TOKEN=secret of b", "--setup", "export SET_UP=b", script)
    return (*first, ":", "--role", "rollout", "-N", "1", "-g", "2", *of_second)


def check(there: LabCluster, *hosts: str) -> None:
    found = [json.loads(there.log(rank)) for rank in range(4)]
    trainer, rollout = found[:2], found[2:]
    assert list(hosts) == [one["host"] for one in found]
    assert [2, 2, 2, 2] == [one["sum"] for one in found]
    assert ["0", "1", "0", "1"] == [one["RANK"] for one in found]
    assert [("secret of a", None, "a", None)] * 2 == [
        (one["A_TOKEN"], one["B_TOKEN"], one["PLAIN"], one["SET_UP"]) for one in trainer
    ]
    assert [(None, "secret of b", None, "b")] * 2 == [
        (one["A_TOKEN"], one["B_TOKEN"], one["PLAIN"], one["SET_UP"]) for one in rollout
    ]
    assert [("2", "0"), ("2", "1"), ("1", "0"), ("1", "1")] == [
        (one["SLURM_NNODES"], one["SLURM_PROCID"]) for one in found
    ]
    assert all(one["others"] == [] for one in found)
    assert {"trainer": [hosts[0], hosts[1]], "rollout": [hosts[2]]} == found[3]["roles"]
    for path in there.run.iterdir():
        assert not path.is_file() or b"secret of" not in path.read_bytes(), path


@pytest.mark.parametrize("launcher", ["fork", "srun"])
def test_a_job_is_divided_between_roles(there: LabCluster, launcher: str) -> None:
    """srun starts the tasks of one role, on its nodes."""
    done = there.muster("run", "--slurm", *roles(there, launcher), timeout=240)
    assert 0 == done.returncode, done.stderr
    check(there, "n1", "n2", "n3", "n3")
    assert "[rollout:1] {" in done.stdout
    shown = there.muster("show").stdout
    assert "role     trainer: 2 ranks" in shown
    assert "role     rollout: 2 ranks" in shown


def test_detached_and_cancelled_while_it_waits(there: LabCluster) -> None:
    started = there.muster("run", "--slurm", "-d", "--slurm-opt", "begin=now+1hour", *roles(there))
    assert 0 == started.returncode, started.stderr
    assert ["3"] == there.lab.run("head", ["squeue", "--noheader", "--format=%D"]).stdout.split()
    assert "trainer: " in there.muster("ps").stdout
    assert 0 == there.muster("kill", "last").returncode


def test_inside_an_allocation(there: LabCluster) -> None:
    line = ["salloc", "-Q", "-N3", *there.argv("run", "--slurm", *roles(there))]
    done = there.lab.run("head", line, env={**there.lab.environment(), **there.env}, cwd=str(there.folder), timeout=240)
    assert 0 == done.returncode, done.stderr
    check(there, "n1", "n2", "n3", "n3")
