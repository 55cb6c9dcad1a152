"""Functions as Slurm jobs, from the login node and from inside an allocation."""

from __future__ import annotations

import ast
import sys

import pytest
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
    with muster.Executor(2, time="5", nnodes=1, nproc_per_node=1, slurm=True, name="array") as executor:
        several = executor.map_array(lambda number: (number, os.environ["SLURM_ARRAY_JOB_ID"], 1 / number), range(3))
        assert isinstance(several[0].exception(), ZeroDivisionError)
        numbers, jobs, _ = zip(*[future.result() for future in several[1:]])
        assert (1, 2) == numbers and jobs[0] == jobs[1]
        first = executor.run_of(several[1])
        assert first.id.endswith(".1") and muster.attach("array.1").result() == several[1].result()
    try:
        with muster.Executor(time="5", nnodes=1, nproc_per_node=1, slurm=True) as executor:
            sleeping = executor.map_array(lambda number: __import__("time").sleep(500), range(3))
            raise KeyError("mine")
    except KeyError:
        assert all(future.done() for future in sleeping)
    waiting = muster.submit(lambda: __import__("time").sleep(500), slurm=True, nnodes=3, nproc_per_node=1, time="9")
    waiting.kill()
    assert not waiting.status().lives
    one = {"slurm": True, "nnodes": 1, "nproc_per_node": 1, "time": "5"}
    sweep = muster.submit(where, sweep={"scale": [2, 3]}, **one)
    last = muster.submit(lambda: "done", after=sweep, **one)
    assert last.survives and last.result() == "done" and sweep.done()
    assert [point.values["scale"] for point in sweep] == [2, 3] and [found[1] for found in sweep.result()] == [0, 0]
    long = muster.submit(lambda: __import__("time").sleep(500), chain=2, **one)
    assert long.survives and not long.done()
    long.kill()
    assert long.done() and long.status() in ("killed", "interrupted"), long.status()
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
    done = there.lab.run("head", argv, env=env, cwd=str(there.folder), timeout=240)
    assert 0 == done.returncode, done.stdout + done.stderr
    return str(done.stdout).splitlines()


def test_a_function_is_submitted_and_its_results_return(there: LabCluster) -> None:
    said = _run(there, how="job")
    assert ["True [('n1', 0), ('n2', 10)] succeeded", "0"] == said
    until(lambda: not queue(there), "the queue is empty")
    there.nothing_left()


def test_a_function_runs_inside_an_allocation(there: LabCluster) -> None:
    assert ["[('n1', 0), ('n2', 10)]"] == _run(there, "salloc", "-Q", "-N2", "-n2", how="inside")
    there.nothing_left()


CHECKPOINT = """
import os, sys, time
import muster

class Count:
    def __init__(self):
        self.step, self.begun = 0, []

    def __call__(self, steps, go):
        self.begun.append(self.step)
        print("begins at", self.step, flush=True)
        while self.step < steps or not os.path.exists(go):
            time.sleep(0.02)
            self.step += 1
            print("step", self.step, flush=True)
        return self.begun, int(os.environ["RANK"])

    def checkpoint(self, *args):
        return self

class Delayed:  # as submitit has it
    def __init__(self, function, *args, **kwargs):
        self.function, self.args, self.kwargs = function, args, kwargs

class Old(Count):
    def __submitit_checkpoint__(self, *args, **kwargs):
        return Delayed(self, *args, **kwargs)

kind = Old if sys.argv[2] == "submitit" else Count
with muster.Executor(slurm=True, nnodes=2, nproc_per_node=1, time="5", grace=1) as executor:
    future = executor.submit(kind(), 10, sys.argv[1])
    run = executor.run_of(future)
    print(future.result(), run.results())
"""


@pytest.mark.parametrize("kind", ["ours", pytest.param("submitit", marks=pytest.mark.slow)])
def test_an_object_with_checkpoint_continues_after_a_preemption(there: LabCluster, kind: str) -> None:
    """All ranks continue with the state of rank 0."""
    go = there.folder / "go"
    env = {**there.lab.environment(), **there.env}
    argv = [sys.executable, there.script(CHECKPOINT, "program.py"), str(go), kind]
    with open(there.folder / "said", "w") as file:
        process = there.lab.start("head", argv, env=env, cwd=str(there.folder), stdout=file, stderr=file)
    there.started.append(process)
    said = (there.folder / "said").read_text
    until(
        lambda: (
            2 == len(list(there.home.glob("runs/*/attempt_0/rank_0000[01].out")))
            and all("step 20" in there.log(rank) for rank in (0, 1))
        ),
        "it works",
        90,
    )
    made_room = there.lab.run("head", ["srun", "-purgent", "-N3", "--exclusive", "true"], timeout=240)
    assert 0 == made_room.returncode, made_room.stderr
    until(
        lambda: (there.run / "attempt_1/rank_00001.out").exists() and "step" in there.log(1, attempt=1),
        "it continues",
        90,
    )
    go.touch()
    assert 0 == process.wait(timeout=120), said()
    (begun, rank), results = ast.literal_eval(f"({said().splitlines()[-1].replace(') [', '), [')})")
    assert 0 == rank and [(begun, 0), (begun, 1)] == results
    assert begun[0] == 0 and begun[1] >= 20 and 2 == len(begun), begun
    assert "checkpoint saved" in there.log(0, "err")
    there.nothing_left()
