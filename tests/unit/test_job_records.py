"""job.json that a job writes itself, because the command that submitted it was killed before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from muster.controller.job_records import RECORD_OF_JOB, REQUEST, keep_record, run_of_task
from muster.rundir.run import Run
from muster.schedulers import get_scheduler

SWEEP = "20261128-010000-abcdef012-train"
ENV = {"SLURM_JOB_ID": "18", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "1"}
ARRAYS = get_scheduler("slurm").arrays


def run_in(runs: Path, run_id: str, **files: Any) -> Run:
    (runs / run_id).mkdir(parents=True)
    run = Run(runs / run_id)
    for name, data in files.items():
        run.write(f"{name}.json", data)
    return run


def record(run_id: str) -> dict[str, Any]:
    return {"id": run_id, "scheduler": {"name": "slurm", "job": "", "job_name": "train"}}


def array(runs: Path) -> tuple[Run, dict[str, Run]]:
    """A sweep of two points that was submitted, of which nothing is recorded."""
    ids = {number: f"{SWEEP}.{number}" for number in ("0", "1")}
    sweep = run_in(runs, SWEEP, **{"array-0": {**ids, RECORD_OF_JOB: record(SWEEP)}})
    request = REQUEST.removesuffix(".json")
    return sweep, {
        number: run_in(runs, run_id, **{request: {RECORD_OF_JOB: record(run_id)}}) for number, run_id in ids.items()
    }


def jobs(*runs: Run) -> list[str]:
    """The ids of the jobs in job.json; empty without it."""
    return [json.loads(path.read_text())["scheduler"]["job"] if path.exists() else "" for path in paths(*runs)]


def paths(*runs: Run) -> list[Path]:
    return [run.path / "job.json" for run in runs]


def test_the_first_task_of_an_array_records_all_points_and_the_sweep(tmp_path: Path) -> None:
    assert ARRAYS is not None
    sweep, points = array(tmp_path)
    assert points["1"].path == run_of_task(sweep, ARRAYS, "array-0.json", ENV).path
    assert ["17", "17_0", "17_1"] == jobs(sweep, *points.values())
    assert sweep.id == json.loads((sweep.path / "job.json").read_text())["id"]


def test_what_the_command_has_recorded_stays(tmp_path: Path) -> None:
    assert ARRAYS is not None
    sweep, points = array(tmp_path)
    points["0"].write("job.json", {"scheduler": {"job": "written before"}})
    run_of_task(sweep, ARRAYS, "array-0.json", ENV)
    assert ["17", "written before", "17_1"] == jobs(sweep, *points.values())
    before = [path.stat().st_mtime_ns for path in paths(sweep, *points.values())]
    run_of_task(sweep, ARRAYS, "array-0.json", ENV)
    assert before == [path.stat().st_mtime_ns for path in paths(sweep, *points.values())]


def test_points_that_are_started_again_and_an_array_of_an_older_muster(tmp_path: Path) -> None:
    assert ARRAYS is not None
    sweep, points = array(tmp_path)
    for run in (sweep, *points.values()):
        run.write("job.json", {"scheduler": {"job": "12"}})
    again = run_in(tmp_path, f"{SWEEP}.1.1", request={RECORD_OF_JOB: record(f"{SWEEP}.1.1")})
    sweep.write("array-1.json", {"1": again.id, RECORD_OF_JOB: record(SWEEP)})
    assert again.path == run_of_task(sweep, ARRAYS, "array-1.json", ENV).path
    assert ["17", "12", "12", "17_1"] == jobs(sweep, *points.values(), again)
    sweep.write("array-2.json", {"1": points["1"].id})
    assert points["1"].path == run_of_task(sweep, ARRAYS, "array-2.json", ENV).path
    assert ["17"] == jobs(sweep)


def test_a_single_job_records_itself(tmp_path: Path) -> None:
    run = run_in(tmp_path, SWEEP)
    keep_record(run, {RECORD_OF_JOB: record(SWEEP)}, "17")
    keep_record(run, {RECORD_OF_JOB: record(SWEEP)}, "18")
    assert ["17"] == jobs(run)
