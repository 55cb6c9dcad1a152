"""Clusters with thousands of nodes and jobs: no step takes time that grows with their square.

Calls are counted, as their number depends on no machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from muster.cli.nodes import _jobs, _machines
from muster.cli.runs import _waiting
from muster.core.results import RunState
from muster.core.sweep import Parameter, points_of
from muster.rundir.finding import look_for_newest, look_for_runs
from muster.rundir.run import Run
from muster.rundir.store import Store
from muster.rundir.sweeps import folded
from muster.schedulers import slurm_jobs, slurm_nodes
from muster.ui.formatting import table

STATES = ("idle", "mixed", "allocated", "drained", "down*")


def sinfo(count: int) -> str:
    """Return the lines of nodes that are in two partitions each."""
    lines = [
        f"node{number:05d}|{partition}|{STATES[number % 5]}|64|512000|gpu:a100:8(S:0-1)|0/64/0/64|none\n"
        for number in range(count)
        for partition in ("main*", "gpu")
    ]
    return "".join(lines)


def in_use(count: int) -> str:
    return "".join(f"node{number:05d}   gpu:a100:{number % 9}(IDX:0)\n" for number in range(count))


def everybody(count: int) -> str:
    job = "{number}|root|main|PENDING|4|gres:gpu:8|0:00|4:00:00|Priority|(null)|2026-11-28T01:04:34|job-{number}\n"
    return "".join(job.format(number=number) for number in range(count))


def mine(count: int) -> str:
    """Return the lines of jobs, half of them tasks of arrays."""
    return "".join(
        f"{number}|RUNNING|None|node[{number:05d}-{number + 3:05d}]|2026-11-28T01:04:34|59:58|{name}|job-{number}\n"
        for number in range(count)
        for name in (f"{number}" if number % 2 else f"{number // 100}_{number}",)
    )


def calls(work: Callable[[], object]) -> int:
    """Return the number of calls of functions during this work."""
    counted = 0

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return counted


def grows(work: Callable[[int], object], count: int = 400) -> float:
    """Return by how much the number of calls grows if there is four times as much."""
    work(count)  # regular expressions are compiled
    return calls(lambda: work(4 * count)) / calls(lambda: work(count))


def test_the_nodes_and_the_queue() -> None:
    def nodes(count: int) -> None:
        found, used = slurm_nodes.nodes(sinfo(count)), slurm_nodes.used_gpus(in_use(count))
        assert len(found) == count
        assert table(_machines(found, used))

    def queue(count: int) -> None:
        found = slurm_nodes.jobs(everybody(count))
        assert len(found) == count
        rows = _jobs(found, {job.job for job in found}, True)
        assert "Priority, expected 2026-11-28T01:04:34" == rows[1][-1]
        assert table(rows)

    assert grows(nodes) < 5
    assert grows(queue) < 5
    assert grows(lambda count: slurm_jobs.queued(mine(count))) < 5


def test_the_runs_and_the_points_of_a_sweep(tmp_path: Path) -> None:
    def runs(count: int) -> None:
        assert len(folded([Run(tmp_path / f"20261128-010000-abcd-train.{number}") for number in range(count)])) == count

    assert grows(runs) < 5
    assert grows(lambda count: points_of([Parameter("x", tuple(map(str, range(count))))])) < 5


def test_the_newest_runs_are_listed_without_a_look_at_the_others(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def made(count: int) -> list[str]:
        """Create runs, and a sweep with two points every tenth time; return the ids that `ps` lists, oldest first."""
        listed = []
        for number in range(count):
            name = f"20261101-000000-{number:013x}-x"
            points = ["", ".0", ".1"] if number % 10 == 0 else [""]
            for more in points:
                path = tmp_path / "runs" / f"{name}{more}"
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                (path / "job.json").write_text("{}")
            if len(points) > 1:
                (tmp_path / "runs" / name / "sweep.json").write_text("{}")
            listed.append(name)
        return listed

    names = made(100)
    found, older = look_for_newest(store, 20)
    assert names[-20:] == [run.id for run in found.runs] and older == 80
    assert look_for_newest(store, 500)[1] == 0
    assert names == [run.id for run in folded(look_for_runs(store).runs)]
    (tmp_path / "runs" / names[-1] / "job.json").unlink()  # removed by hand, or about to be written
    (tmp_path / "runs" / names[-2]).chmod(0o722)
    found, older = look_for_newest(store, 20)
    assert names[-22:-2] == [run.id for run in found.runs] and older == 78
    assert [names[-2]] == [path.name for path in found.refused]
    few = calls(lambda: look_for_newest(store, 20))
    made(1000)
    assert calls(lambda: look_for_newest(store, 20)) < few + 20 * 900, "names only"


def test_a_list_of_runs_asks_the_scheduler_once(env: dict[str, str], tmp_path: Path) -> None:
    """With 10,000 jobs in the queue; no job step is started, whose output would be late."""
    programs, home = tmp_path / "bin", Path(env["MUSTER_HOME"])
    programs.mkdir()
    (programs / "queue").write_text(mine(10_000))
    for name, text in (("squeue", f"cat {programs}/queue"), ("srun", "exit 1"), ("sacct", "exit 1")):
        (programs / name).write_text(f"#!/bin/sh\necho {name} >>{programs}/asked\n{text}\n")
        (programs / name).chmod(0o755)
    for folder in (home, home / "runs"):
        folder.mkdir(mode=0o700)
    for number in range(1, 301, 2):
        run = home / "runs" / f"20261127-000000-{number:08x}-train"
        run.mkdir(mode=0o700)
        scheduled = {"name": "slurm", "job": str(number), "job_name": f"job-{number}"}
        place = {"there": str(run), "host": "", "boot": "", "served": {"name": "", "user": ""}}
        record = {"id": run.name, "name": "", "time": 1.0, "ranks": 0, "job": {}, **place, "scheduler": scheduled}
        del record["job"]
        (run / "job.json").write_text(json.dumps(record))
    env["PATH"] = f"{programs}:{os.environ['PATH']}"
    line = [sys.executable, "-m", "muster", "ps", "-a", "--json"]
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=240)
    assert 0 == done.returncode, done.stderr
    assert {"running"} == {run["state"] for run in json.loads(done.stdout)}
    assert ["squeue"] == (programs / "asked").read_text().split()


def test_pending_runs_are_told_by_reason_with_the_one_that_starts_first() -> None:
    why = "other jobs have a higher priority (Priority)"
    whys = ((RunState.PENDING, f"{why}; expected start: {hour}") for hour in ("05:00", "04:00"))
    states = [*whys, (RunState.PENDING, why), (RunState.RUNNING, ""), (RunState.PENDING, "waiting for a licence")]
    records = [{"id": f"run-{number}", "state": state, "why": why} for number, (state, why) in enumerate(states)]
    assert [
        f"run-1 and 2 more runs pending: {why}; expected start: 04:00",
        "run-4 pending: waiting for a licence",
    ] == _waiting(records)
