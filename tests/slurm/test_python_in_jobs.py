"""Functions as Slurm jobs, from the login node and from inside an allocation."""

from __future__ import annotations

import sys

from job_queue import queue
from lab_cluster import LabCluster
from waiting import until

PROGRAM = """
import os, socket, sys
import muster

def where(scale):
    return socket.gethostname(), int(os.environ["RANK"]) * scale

options = {"slurm": True, "nnodes": 2, "nproc_per_node": 1, "grace": 1}
if sys.argv[1] == "job":
    run = muster.submit(where, 10, time="5", **options)
    print(run.status() in ("pending", "running"), run.results(), run.status())
    waiting = muster.submit(lambda: __import__("time").sleep(500), slurm=True, nnodes=3, nproc_per_node=1, time="9")
    waiting.kill()
    assert not waiting.status().lives
    try:
        muster.run(lambda: 1 / 0, slurm=True, nnodes=1, nproc_per_node=1, time="5", show_output=False)
    except ZeroDivisionError as error:
        print(error.__cause__.rank)
else:
    print(muster.run(where, 10, show_output=False, **options))
"""


def _run(there: LabCluster, *before: str, how: str) -> list[str]:
    path = there.script(PROGRAM, "program.py")
    env = {**there.lab.environment(), **there.env}
    argv = [*before, sys.executable, path, how]
    done = there.lab.run("head", argv, env=env, cwd=str(there.folder), timeout=200)
    assert 0 == done.returncode, done.stdout + done.stderr
    return str(done.stdout).splitlines()


def test_a_function_is_submitted_and_its_results_return(there: LabCluster) -> None:
    said = _run(there, how="job")
    assert ["True [('n1', 0), ('n2', 10)] succeeded", "0"] == said
    until(lambda: not queue(there), "the queue is empty", 60)
    there.nothing_left()


def test_a_function_runs_inside_an_allocation(there: LabCluster) -> None:
    assert ["[('n1', 0), ('n2', 10)]"] == _run(there, "salloc", "-Q", "-N2", "-n2", how="inside")
    there.nothing_left()
