"""Sweeps on the real Slurm of the lab: one job array, whose tasks are runs of their own."""

from __future__ import annotations

import json
from typing import Any

from lab_cluster import LabCluster
from waiting import until

POINT = """
import os, sys, time
point, task = os.environ["MUSTER_POINT"], os.environ["SLURM_ARRAY_TASK_ID"]
print("point", point, "task", task, "of", os.environ["MUSTER_POINTS"], "rank", os.environ["RANK"], *sys.argv[1:])
print(f"loss={float(sys.argv[1]) * 2:g}", flush=True)
sys.exit(7 if sys.argv[2] == "bad" and not os.path.exists("mended") else 0)
"""


def points(there: LabCluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(there.muster("show", "lrs", "--json").stdout)["points"]
    return found


def test_a_sweep_is_one_array_and_failed_points_run_again(there: LabCluster) -> None:
    sweep = ["--sweep", "lr=1,2", "--sweep", 'how=["fine", "bad"]']
    line = ["run", "--slurm", *sweep, "--max-parallel", "3", "-N", "1", "-g", "2", "--launcher", "exec"]
    done = there.muster(*line, "--name", "lrs", there.script(POINT), "{lr}", "{how}", "{other}")
    assert 7 == done.returncode, done.stderr
    assert "point 1 of 4 (lr=1 how=bad): failed" in done.stderr
    (row,) = there.muster("ps").stdout.splitlines()[1:]
    assert "2 ok, 2 failed" in row and "4 points" in row
    found = points(there)
    assert ["succeeded", "failed", "succeeded", "failed"] == [point["state"] for point in found]
    number = found[0]["job_id"].partition("_")[0]
    assert [f"{number}_{index}" for index in range(4)] == [point["job_id"] for point in found]
    assert ["2", "2", "4", "4"] == [point["metrics"]["loss"] for point in found]
    assert "point 2 task 2 of 4 rank 1 2 fine {other}" in there.muster("logs", "lrs.2", "--rank", "1").stdout
    assert "rank 0 2 fine {other}" in there.muster("logs", f"{number}_2").stdout
    assert "==> 3: lr=2 how=bad <==" in there.muster("logs", number).stdout
    assert 7 == there.muster("attach", number).returncode
    assert "is about one run" in there.muster("stacks", number).stderr

    (there.folder / "mended").touch()
    done = there.muster("run", "--resubmit", "failed", "--time", "3", "lrs")
    assert 0 == done.returncode, done.stderr
    assert ["succeeded"] * 4 == [point["state"] for point in points(there)]
    assert "no point to run again: 4 ok" in there.muster("run", "--resubmit", "failed", "lrs").stdout
    assert [False, True, False, True] == [point["id"].endswith(".1") for point in points(there)]
    there.nothing_left()


def test_kill_ends_all_points_of_a_sweep(there: LabCluster) -> None:
    script = there.script("import time\nprint('runs', flush=True)\ntime.sleep(600)")
    array = ["--array", "0-3%1", "--name", "lrs", "--launcher", "exec", "-N", "1"]
    hidden = there.muster("run", "--slurm", "--env", "TOKEN=a{index}", *array, script)
    assert 2 == hidden.returncode and "a secret cannot contain a parameter" in hidden.stderr
    assert [] == list((there.home / "runs").iterdir())
    assert 0 == there.muster("run", "--slurm", "-d", *array, script).returncode
    until(lambda: "running" in [point["state"] for point in points(there)], "a point runs")
    until(lambda: "runs" in there.muster("logs", "lrs.0").stdout, "its rank has written")
    assert 124 == there.muster("wait", "lrs", "--timeout", "0").returncode
    shown = there.muster("show", "lrs.1").stdout
    assert "pending: other points of the sweep run" in shown and "waiting  " in shown
    there.lab.run("head", ["scancel", str(points(there)[3]["job_id"])], env=there.lab.environment(), cwd="/")
    until(lambda: "killed" in [point["state"] for point in points(there)], "the cancelled point has ended")
    assert "stopped before it started: it was cancelled" in there.muster("show", "lrs.3").stdout
    assert 0 == there.muster("kill", "lrs").returncode
    assert ["killed"] * 4 == [point["state"] for point in points(there)]
    there.nothing_left()


def test_a_chain_and_a_run_that_waits_for_it(there: LabCluster) -> None:
    """The first part reaches a time limit, which the scheduler takes for a failure; the third one fails."""
    text = 'case $MUSTER_PART in 0) sleep 600;; 2) exit 9;; esac; echo "part $MUSTER_PART"'
    line = ["run", "--slurm", "-d", "-N", "1", "-g", "1", "--launcher", "exec"]
    chain = [*line, "--name", "c", "--timeout", "15s", "--chain", "4", "--", "sh", "-c", text]
    assert 0 == there.muster(*chain).returncode
    assert 0 == there.muster(*line, "--name", "after", "--after", "c:any", "--", "echo", "last").returncode
    assert "pending: waiting for another job (Dependency)" in there.muster("show", "after").stdout
    assert 9 == there.muster("wait", "c").returncode
    shown = json.loads(there.muster("show", "c", "--json").stdout)
    assert ["timed out", "succeeded", "failed", "killed"] == [point["state"] for point in shown["points"]]
    assert "did not succeed (failed)" in there.muster("show", "c.3").stdout
    assert 0 == there.muster("wait", "after").returncode
    refused = there.muster(*line, "--after", "c", "--", "true")
    assert 125 == refused.returncode, refused.stderr
    there.nothing_left()
