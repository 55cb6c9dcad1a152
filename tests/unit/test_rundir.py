"""Run directories: creation, naming, and reading damaged ones."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from muster.core.json_checks import Malformed
from muster.errors import InvalidRequest
from muster.rundir.finding import find_run
from muster.rundir.run import Run, Unreadable
from muster.rundir.store import ID, Store, create_run, free_id


def a_run(root: Path, name: str = "20261127-101112-0123456789abc-train") -> Run:
    run = create_run(Store(root), name)
    run.write("job.json", {"id": name, "name": "", "time": time.time(), "host": "elsewhere", "boot": "", "ranks": 2})
    return run


@pytest.mark.parametrize("name", ["outcome.json", "job.json", "plan.json", "events.jsonl"])
@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"{", b"[]", b'{"state": 3}', b"[" * 100_000, b"", "directory", "fifo"]
)
def test_a_damaged_file_is_reported_with_its_run(tmp_path: Path, name: str, content: Any) -> None:
    run = a_run(tmp_path)
    path = run.path / name
    path.unlink(missing_ok=True)
    if content == "directory":
        path.mkdir()
    elif content == "fifo":
        os.mkfifo(path)  # must not be waited for
    else:
        path.write_bytes(content)
    read = {"outcome.json": lambda: run.outcome, "job.json": lambda: run.job, "plan.json": lambda: run.plan}
    try:
        found = read.get(name, run.events)()
    except Unreadable as error:
        assert f"{run.id}: cannot read {name}: " in error.sentence
    else:
        assert name == "events.jsonl" and found == [], "only lines are left out"


def test_only_complete_events_count(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    lines = [
        b'{"event": "warm"}',
        b'\xff{"event": "x"}',
        b"3",
        b'{"event": 7}',
        b'{"event": "say", "text": "\xff"}',
        b'{"ev',
    ]
    (run.path / "events.jsonl").write_bytes(b"\n".join(lines))
    assert ["warm", "say"] == [event["event"] for event in run.events()]


def test_an_existing_run_directory_is_never_touched(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    (run.path / "precious").write_text("x")
    with pytest.raises(InvalidRequest, match="File exists"):
        create_run(Store(tmp_path), run.id)
    assert (run.path / "precious").exists()


def test_ids_sort_by_time_and_cannot_be_predicted(tmp_path: Path) -> None:
    ids = [free_id(Store(tmp_path), "train", 1.0 + step / 100, "20261127-101112") for step in range(50)]
    assert ids == sorted(ids)
    assert 50 == len(set(ids))
    assert all(ID.fullmatch(found) for found in ids)
    again = {free_id(Store(tmp_path), "a b/ü", 1.0, "20261127-101112") for _ in range(50)}
    assert 50 == len(again), "of the same moment"


@pytest.mark.parametrize(
    ("attempt", "rank", "stream"), [("0/../..", 0, "out"), (0, "../x", "out"), (0, -1, "out"), (0, 0, "x")]
)
def test_no_file_of_a_rank_lies_elsewhere(tmp_path: Path, attempt: Any, rank: Any, stream: str) -> None:
    with pytest.raises(Malformed):
        Run(tmp_path).log(attempt, rank, stream)


def test_an_empty_name_is_the_name_of_no_run(tmp_path: Path) -> None:
    a_run(tmp_path)
    with pytest.raises(InvalidRequest, match="empty run name"):
        find_run(Store(tmp_path), "")
