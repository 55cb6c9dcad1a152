"""The directories of a sweep and its points."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from muster.cli.sweeps import follow_sweep, listing
from muster.client.status import RunStatus
from muster.core.results import RunResult, RunState
from muster.core.sweep import Ids, Parameter, Sweep, points_of
from muster.rundir.finding import RunNotFound, find_run, list_runs, look_for_runs
from muster.rundir.run import Run
from muster.rundir.store import Store
from muster.rundir.sweeps import (
    every_run,
    folded,
    is_sweep,
    mark_deleted,
    next_ids,
    runs_by_point,
    sweep_of,
    sweep_run,
    words_of,
    write_sweep,
)
from muster.rundir.unfinished import remove, unfinished
from muster.ui.text import outcome_as_json

ID = "20261128-010000-abcdef012-train"
SWEEP = Sweep(points_of([Parameter("x", ("1", "2"))]), 2)


def made(root: Path, run_id: str, job: str = '{"time": 1, "name": ""}') -> Run:
    path = root / "runs" / run_id
    path.mkdir(parents=True, mode=0o700)
    (path / "job.json").write_text(job)
    return Run(path)


def test_a_sweep_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = made(tmp_path, ID)
    assert not is_sweep(run)
    write_sweep(run, SWEEP, ["--sweep", "x=1,2", "train.py", "{x}"])
    assert is_sweep(run) and SWEEP == sweep_of(run)
    assert ("--sweep", "x=1,2", "train.py", "{x}") == words_of(run)


def test_the_newest_run_of_each_point(tmp_path: Path) -> None:
    run = made(tmp_path, ID)
    write_sweep(run, SWEEP, [])
    for name in ("0", "1", "1.1", "1.2"):
        made(tmp_path, f"{ID}.{name}")
    other = made(tmp_path, f"{ID}-2.0")
    (tmp_path / "runs" / f"{ID}.2").symlink_to(other.path)
    assert {0: f"{ID}.0", 1: f"{ID}.1.2"} == {number: one.id for number, one in runs_by_point(run).items()}
    assert {0: Ids(ID, 0, 1), 1: Ids(ID, 1, 3), 5: Ids(ID, 5)} == next_ids(run, [0, 1, 5])
    assert [f"{ID}.{name}" for name in ("0", "1", "1.1", "1.2")] == [one.id for one in every_run(run)]
    found = sweep_run(Run(tmp_path / "runs" / f"{ID}.1.2"))
    assert found is not None and found.id == ID
    assert sweep_run(other) is None, "its script is called train-2.0"
    assert [ID, other.id] == [one.id for one in folded([run, *every_run(run), other])]


def test_names_of_points(tmp_path: Path) -> None:
    run = made(tmp_path, ID, '{"time": 1, "name": "lrs", "scheduler": {"name": "slurm", "job": "12"}}')
    write_sweep(run, SWEEP, [])
    made(tmp_path, f"{ID}.0", '{"time": 1, "name": "lrs.0", "scheduler": {"name": "slurm", "job": "12_0"}}')
    second = '{"time": 1, "name": "lrs.1", "scheduler": {"name": "slurm", "job": "%s"}}'
    made(tmp_path, f"{ID}.1", second % "12_1")
    made(tmp_path, f"{ID}.1.1", second % "15_1")
    store = Store(tmp_path)
    names = {"lrs": ID, "12": ID, "last": ID, ID[:20]: ID, "lrs.0": f"{ID}.0", "12_0": f"{ID}.0", "last.0": f"{ID}.0"}
    names |= {"lrs.1": f"{ID}.1.1", "12.1": f"{ID}.1.1", "12_1": f"{ID}.1", "15_1": f"{ID}.1.1", f"{ID}.1": f"{ID}.1"}
    assert names == {name: find_run(store, name).id for name in names}


def test_who_follows_a_sweep_quietly_hears_of_points_that_failed(tmp_path: Path) -> None:
    run = made(tmp_path, ID)
    write_sweep(run, SWEEP, [])
    for number, (state, code) in enumerate(((RunState.SUCCEEDED, 0), (RunState.FAILED, 3))):
        point = made(tmp_path, f"{ID}.{number}")
        point.write_outcome(outcome_as_json(RunResult(state, code, 1.0, 0)))
    said: list[str] = []
    failed: list[str] = []
    assert follow_sweep(run, say=said.append, failed=failed.append) == 3
    assert ["point 1 of 2 (x=2): failed in 1.0s, exit code 3"] == [line.split(";")[0] for line in failed]
    assert said[-1].endswith("1 ok, 1 failed") and len(said) == 2


def test_a_sweep_is_deleted_in_one_step(tmp_path: Path) -> None:
    """Points of which the command was killed that deleted their sweep are no runs of their own."""
    run, other = made(tmp_path, ID), made(tmp_path, "20261128-010001-abcdef013-train")
    write_sweep(run, SWEEP, [])
    for name in ("0", "1", "1.1"):
        made(tmp_path, f"{ID}.{name}")
    mark_deleted(run)  # and the command is killed
    store = Store(tmp_path)
    assert [other.id] == [one.id for one in list_runs(store)]
    for which in (ID, f"{ID}.0", f"{ID}.1"):
        with pytest.raises(RunNotFound):
            find_run(store, which)
    left = unfinished(look_for_runs(store).unrecorded)
    assert [ID] == [one.id for one in left]
    remove(store, left)
    assert [other.id] == sorted(path.name for path in (tmp_path / "runs").iterdir() if not path.name.startswith("."))


def test_a_run_that_was_killed_before_it_was_recorded_is_seen_an_hour_later(tmp_path: Path) -> None:
    early, queued, new = (tmp_path / "runs" / f"20261128-01000{number}-abcdef012-train" for number in range(3))
    for path, name in ((early, "here"), (queued, "request.json"), (new, "here")):
        path.mkdir(parents=True, mode=0o700)
        (path / name).touch()
    for path in (early, queued):
        os.utime(path, (0, 0))
    store = Store(tmp_path)
    left = unfinished(look_for_runs(store).unrecorded)
    assert [early.name] == [one.id for one in left], "the job of another one is pending, and the third is being started"
    remove(store, left)
    assert not early.exists() and queued.exists() and new.exists()


def test_a_listing_does_not_need_the_result_of_a_point_that_is_only_known(tmp_path: Path) -> None:
    """That of another user, whose scheduler tells how its job ended; or one that is being deleted."""
    run = made(tmp_path, ID)
    write_sweep(run, SWEEP, [])
    ids = [Ids(ID, number).run for number in (0, 1)]
    for point in ids:
        made(tmp_path, point)
    known = {point: RunStatus(RunState.KILLED, outcome=RunResult(RunState.KILLED, 137, 1.0)) for point in ids}
    found = listing(run, known)
    assert (RunState.KILLED, None) == (found["state"], found["seconds"])
