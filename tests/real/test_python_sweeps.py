"""Sweeps, chains and `after=` from Python: points are runs, with the values that the program gave."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Program = Callable[[str], str]


@pytest.fixture
def program(env: dict[str, str], tmp_path: Path) -> Program:
    """Run a program, and return its output."""

    def run(text: str) -> str:
        (tmp_path / "program.py").write_text(text)
        argv = [sys.executable, "program.py"]
        done = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert 0 == done.returncode, done.stdout + done.stderr
        return done.stdout

    return run


FUNCTIONS = """
import os, subprocess, sys, time
import muster

def train(lr, seed=0):
    while not os.path.exists("go"):
        time.sleep(0.02)
    print(f"loss={lr * 2 + seed}", flush=True)
    if seed == 9:
        raise ValueError("diverged")
    return lr, seed, os.environ.get("MUSTER_POINT")

options = {"nproc_per_node": 1, "launcher": "exec"}
sweep = muster.submit(train, sweep={"lr": [0.5, 2], "seed": range(2)}, max_parallel=2, **options)
assert len(sweep) == 4 and sweep.status() in ("pending", "running")
late = muster.submit(train, 1, sweep={"seed": [9, 1]}, after=sweep, **options)
assert late.status() == "pending"
open("go", "w").close()
assert sweep.result() == [(0.5, 0, "0"), (0.5, 1, "1"), (2, 0, "2"), (2, 1, "3")]
assert [row["loss"] for row in sweep.table()] == [1.0, 2.0, 4.0, 5.0]
assert sweep[2].values == {"lr": 2, "seed": 0} and sweep[2].metrics() == {"loss": 4.0}
assert list(sweep[1].logs()) == ["loss=2.0"]
assert "0.5" in str(sweep) and "loss" in str(sweep)

first, second = late.exceptions()
assert isinstance(first, ValueError) and second is None, (first, second)
assert late.status() == "failed" and late.counts() == {"ok": 1, "failed": 1}
again = [sys.executable, "-m", "muster", "run", "--resubmit", "failed", late.id]
again = subprocess.run(again, capture_output=True, text=True)
assert again.returncode == 2 and "calls a Python function" in again.stderr, again.stderr

try:
    late.results()
except ValueError as error:
    assert error.__cause__.rank == 0

try:
    muster.submit(train, 1, after=late, **options)
except muster.MusterError as error:
    assert "ended: failed" in str(error), error
assert muster.submit(train, 3, after=[f"{late.id}:any", sweep], **options).result()[0] == 3

parts = muster.run(lambda: os.environ["MUSTER_PART"], chain=2, show_output=False, **options)
assert parts == [["0"], ["1"]], parts
"""


def test_points_call_a_function_with_their_values(program: Program) -> None:
    program(FUNCTIONS)


SCRIPTS = """
import muster
from pathlib import Path

Path("train.py").write_text('''
import os, sys, time
print("loss", sys.argv[1], flush=True)
while "hold" in sys.argv:
    time.sleep(0.05)
''')
options = {"nproc_per_node": 1, "launcher": "exec"}
sweep = muster.submit("train.py", "{x}", sweep="x=1-2", **options)
assert sweep.results() == [[None], [None]]
assert [point.metrics() for point in sweep] == [{"loss": 1.0}, {"loss": 2.0}]
again = muster.Sweep.attach(sweep.id)
assert [point.values for point in again] == [{"x": "1"}, {"x": "2"}] and again.wait(0)

held = muster.submit("train.py", "7", "hold", array=range(3), **options)
waiting = muster.submit("train.py", "1", after=held, **options)
assert waiting.status() == "pending" and not held.done() and not held.wait(0)
held.kill()
assert held.done() and held[2].status() == "killed" and held.status() in ("killed", "interrupted"), held.status()
try:
    waiting.results()
except muster.MusterError as error:
    assert held.id in str(error), error
else:
    raise AssertionError("it was started")
for wrong in ({"detach": True}, {"chain": 2}):
    try:
        muster.submit("train.py", "1", array="0-1", **wrong, **options)
    except muster.MusterError:
        continue
    raise AssertionError(wrong)
"""


def test_points_run_a_script_and_are_killed_together(program: Program) -> None:
    program(SCRIPTS)
