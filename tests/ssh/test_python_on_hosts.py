"""Functions on hosts reached by ssh, which share the run directory or nothing at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_cluster import LabCluster

from muster.lab import Lab

PROGRAM = """
import os, socket, sys
import torch
import muster

def train(scale):
    rank = int(os.environ["RANK"])
    print("on", socket.gethostname(), rank)
    return {"host": socket.gethostname(), "large": torch.full((300_000,), float(rank) * scale), "rank": rank}

found = muster.run(train, 2.0, hosts="n[1-2]", nproc_per_node=2, grace=1)
assert [one["rank"] for one in found] == [0, 1, 2, 3]
assert [one["large"].sum().item() for one in found] == [0, 600_000, 1_200_000, 1_800_000]
print(*[one["host"] for one in found])

def fails():
    if os.environ["RANK"] == "3":
        raise KeyError("here")
    import time
    time.sleep(60)

run = muster.submit(fails, hosts="n1,n2", nproc_per_node=2, grace=1, detach=True)
try:
    run.results()
except KeyError as error:
    print(error, error.__cause__.host, error.__cause__.rank)
with muster.Executor(max_workers=2, hosts="n[1-2]", nproc_per_node=1, show_output=False) as executor:
    futures = executor.map_array(lambda a, b: (a * b, os.environ["WORLD_SIZE"]), (2, 3), (5, 7))
    assert [(10, "2"), (21, "2")] == [future.result() for future in futures]
blob = os.urandom(9 << 20)
assert muster.run(lambda: len(blob), hosts="n2", nproc_per_node=1) == [9 << 20]
with muster.hold(hosts="n[1-2]", nproc_per_node=1) as cluster:
    for number in range(2):
        assert cluster.run(lambda: (number, os.environ["RANK"]), show_output=False) == [(number, "0"), (number, "1")]
"""


REPORTS = """
import json, subprocess, sys, time
import muster

def train():
    muster.progress(7, 20)
    time.sleep(600)

run = muster.submit(train, hosts="n1,n2", nproc_per_node=1, grace=1, detach=True)
deadline = time.monotonic() + 60
while True:
    told = subprocess.run([sys.executable, "-m", "muster", "ps", "--json"], capture_output=True, text=True, check=True)
    seen = json.loads(told.stdout)[0]
    if seen["step"] is not None or time.monotonic() > deadline:
        break
print(seen["state"], seen["step"], seen["steps"])
run.kill()
"""


def _run(there: LabCluster, **more: Any) -> str:
    path = there.script(PROGRAM, "program.py")
    env = {**there.lab.environment(), **there.env}
    done = there.lab.run("head", [sys.executable, path], env=env, cwd=str(there.folder), timeout=240, **more)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "" == done.stderr
    return str(done.stdout)


def _seen(said: str) -> None:
    assert ["[0] on n1 0", "[1] on n1 1", "[2] on n2 2", "[3] on n2 3"] == sorted(said.splitlines()[:4])
    assert ["n1 n1 n2 n2", "'here' n2 3"] == said.splitlines()[4:]


def test_functions_on_hosts_that_share_the_run_directory(there: LabCluster) -> None:
    _seen(_run(there))
    there.nothing_left()


@pytest.fixture
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabCluster]:
    """A lab whose hosts share nothing but the interpreter."""
    top = tmp_path_factory.mktemp("alone")
    with Lab(nodes=2, shared_home=False, shared=[]) as lab:
        cluster = LabCluster(lab, Path(top))
        yield cluster


@pytest.mark.slow
def test_functions_and_their_results_reach_hosts_that_share_nothing(alone: LabCluster) -> None:
    """The pickle has more than one piece of a frame; results of both hosts are fetched to the head."""
    folder = "/root/python-api" if os.path.isdir("/root") else "/tmp/python-api"
    env = {**alone.lab.environment(), "OMP_NUM_THREADS": "1", "MUSTER_HOME": f"{folder}/home"}
    write = ["sh", "-c", f"mkdir -p {folder} && cat > {folder}/program.py"]
    assert 0 == alone.lab.run("head", write, input=PROGRAM, cwd="/").returncode
    # ranks start in a directory that every host has
    text = ["sh", "-c", f"cd / && exec {sys.executable} {folder}/program.py"]
    done = alone.lab.run("head", text, env=env, cwd="/", timeout=240)
    assert 0 == done.returncode, done.stdout + done.stderr
    _seen(done.stdout)
    assert 0 == alone.lab.run("head", write, input=REPORTS, cwd="/").returncode
    done = alone.lab.run("head", text, env=env, cwd="/", timeout=240)
    assert "running 7 20" == done.stdout.strip(), done.stdout + done.stderr
    left = alone.lab.run("n2", ["sh", "-c", "ls /root/.muster/runs"], cwd="/").stdout.split()
    assert ["lambda"] == [name.rpartition("-")[2] for name in left], "only of the run whose controller was there"
