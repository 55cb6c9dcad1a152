"""Records of runs stored elsewhere: only this user's own count, and they point to run directories only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from muster.errors import InvalidRequest
from muster.rundir import homes
from muster.rundir.finding import all_runs, find_run, list_runs, look_for_runs
from muster.rundir.run import Run
from muster.rundir.store import Store, create_run, remove_run

ID = "20261127-101112-0123456789abc-train"
OTHER = "20261127-101112-0123456789abd-train"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Runs are stored in one directory, and recorded in another."""
    return Store(tmp_path / "kept", (tmp_path / "home",))


def made(store: Store, run_id: str) -> Run:
    run = create_run(store, run_id)
    run.write("job.json", {"id": run_id, "time": 1.0, "name": "mine"})
    return run


def found(store: Store) -> list[Path]:
    return [run.path for run in list_runs(store)]


def test_a_run_outside_the_home_is_recorded(store: Store, tmp_path: Path) -> None:
    run, at_home = made(store, ID), made(Store(tmp_path / "home", store.homes), OTHER)
    from_elsewhere = Store(tmp_path / "third", store.homes)
    assert [run.path, at_home.path] == found(from_elsewhere)
    assert [run.path] == found(store.here)
    assert run.path == find_run(from_elsewhere, "20261127-101112-0123456789abc").path
    assert [ID, ID, ID] == [
        run.operand,
        *(find_run(place, ID).operand for place in (store.here, from_elsewhere)),
    ]
    remove_run(from_elsewhere, run)
    assert [at_home.path] == found(from_elsewhere)
    assert {} == homes.noted(tmp_path / "home")
    assert [] == os.listdir(tmp_path / "home" / "elsewhere")


def test_one_that_cannot_be_noted_is_named_with_its_place(tmp_path: Path) -> None:
    store = Store(tmp_path / "a place", (Path("/proc/nothing"),))
    run = made(store, ID)
    assert f"{ID} --run-dir '{tmp_path}/a place'" == run.operand == find_run(store.here, ID).operand
    assert run.operand == find_run(store, ID).operand


def test_records_of_other_users_are_ignored(store: Store, tmp_path: Path) -> None:
    run = made(store, ID)
    notes = tmp_path / "home" / "elsewhere"
    for name, target in (
        (OTHER, run.path),  # to a run with another name
        (OTHER[:-1] + "1", Path("runs") / (OTHER[:-1] + "1")),  # relative to any directory
        (OTHER[:-1] + "2", tmp_path / (OTHER[:-1] + "2")),  # to no directory of runs
        ("..", None),
    ):
        if target is not None:
            (notes / name).symlink_to(target)
    (notes / (OTHER[:-1] + "3")).mkdir()
    assert {ID: run.path} == homes.noted(tmp_path / "home")
    notes.chmod(0o777)
    assert {} == homes.noted(tmp_path / "home")
    assert not homes.note(tmp_path / "home", tmp_path / "x" / "runs" / OTHER)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user, which root alone can")
def test_notes_of_others_and_runs_that_became_anothers(store: Store, tmp_path: Path) -> None:
    run = made(store, ID)
    os.chown(run.path, 65534, 65534)
    elsewhere = Store(tmp_path / "third", store.homes)
    assert ({run.path: "its owner changed from this user to user nobody"}, []) == (
        look_for_runs(elsewhere).refused,
        found(elsewhere),
    )
    os.chown(run.path, 0, 0)
    os.lchown(tmp_path / "home" / "elsewhere" / ID, 65534, 65534)
    assert [] == found(elsewhere)
    (tmp_path / "third").symlink_to(tmp_path / "kept")
    os.lchown(tmp_path / "third", 65534, 65534)
    with pytest.raises(InvalidRequest, match="it is a symbolic link of user 65534"):
        create_run(elsewhere, OTHER)


def test_the_usual_home_may_be_unreadable_where_another_one_is_kept_because_of_that(tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.mkdir()
    (usual / "runs").write_text("this is how a directory that cannot be read looks to root")
    temporary = Store(tmp_path / "temporary", (tmp_path / "temporary", usual))
    run = made(temporary, ID)
    assert run.path == find_run(temporary, "last").path
    assert [run.path] == [found.path for found in all_runs(temporary)]
    with pytest.raises(InvalidRequest, match="cannot read"):
        find_run(Store(usual, (usual,)), "last")
