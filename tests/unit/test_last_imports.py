"""What the last run of a script imported, from its record in the run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from muster.core.json_records import job_from_json
from muster.core.model import Job, LastImports, Program, as_json
from muster.rundir.last_imports import last_imports, program_of
from muster.rundir.store import Store


def job(path: Path, **more: Any) -> Job:
    return Job(Program("script", ("train.py",)), "fork", "python", "", str(path), **more)


def record(store: Store, run: str, program: str, names: str = "torch good", **more: Any) -> Path:
    """Write a record of a run, and return its path."""
    folder = store.path(run) / "attempt_0"
    folder.mkdir(parents=True, mode=0o700)
    for made in (store.root / "runs", store.path(run)):
        made.chmod(0o700)
    path = folder / "rank_00000.imports"
    header = {"program": program, "packages": "0a", "unfit": {"import x": "starts a thread"}, **more}
    path.write_text(f"{json.dumps(header)}\n{names}\n")
    return path


def test_the_newest_record_of_the_program_counts(tmp_path: Path) -> None:
    """Of this script in this directory; a run that recorded nothing does not count."""
    store, here = Store(tmp_path), job(tmp_path)
    program = str(tmp_path / "train.py")
    assert last_imports(store, here) == LastImports(program)
    record(store, "20261101-000000-aaaa-train", program, "torch old")
    record(store, "20261102-000000-bbbb-train", program)
    record(store, "20261103-000000-cccc-train", "/elsewhere/train.py")
    (store.path("20261104-000000-dddd-train") / "attempt_0").mkdir(parents=True, mode=0o700)
    record(store, "20261105-000000-eeee-other", program)
    found = last_imports(store, here)
    assert found is not None
    assert ("20261102-000000-bbbb-train", "0a", ("torch", "good")) == (found.run, found.packages, found.names)
    assert {"import x": "starts a thread"} == dict(found.unfit)
    assert job_from_json(as_json(here._replace(last_imports=found))).last_imports == found


@pytest.mark.parametrize(
    "text", ["", "{}", "[]\na\n", "nothing\n", '{"program": 1}\na\n', "\xff\x00", '{"program": "x"}\n' * 9]
)
def test_a_damaged_record_is_none(text: str, tmp_path: Path) -> None:
    """Nothing is imported ahead then."""
    store, program = Store(tmp_path), str(tmp_path / "train.py")
    record(store, "20261102-000000-bbbb-train", program).write_text(text)
    assert last_imports(store, job(tmp_path)) == LastImports(program)


def test_a_record_that_was_cut_is_none(tmp_path: Path) -> None:
    """As on a full disk; names that are none of a package are left out."""
    store, program = Store(tmp_path), str(tmp_path / "train.py")
    path = record(store, "20261102-000000-bbbb-train", program, "torch ../x good;rm")
    found = last_imports(store, job(tmp_path))
    assert found is not None
    assert ("torch",) == found.names
    path.write_text(path.read_text()[:-1])
    assert last_imports(store, job(tmp_path)) == LastImports(program)


def test_who_records(tmp_path: Path) -> None:
    """Scripts and modules whose ranks are forked."""
    assert program_of(job(tmp_path)) == str(tmp_path / "train.py")
    assert program_of(job(tmp_path)._replace(launcher="exec")) == ""
    assert program_of(job(tmp_path)._replace(program=Program("command", ("true",)))) == ""
    assert program_of(job(tmp_path)._replace(program=Program("script", ("x.py",), "print()"))) == ""
    assert program_of(job(tmp_path)._replace(program=Program("module", ("a.b",)))) == f"-m a.b in {tmp_path}"
