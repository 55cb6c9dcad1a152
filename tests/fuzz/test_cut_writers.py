"""Each function that writes a state file, cut at every system call: its reader finds the old or the new state."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cutting import POSSIBLE, How, cuts, run_cut

from muster import bundle, environments, notification
from muster.agent import links, settle
from muster.agent.hook import torch_server
from muster.client import remote
from muster.core.controller_config import RECORD, ControllerConfig, NodeRecord, config_as_json
from muster.core.inspection import Snapshot, SnapshotReason
from muster.core.pace import Pace
from muster.core.sweep import Point, Sweep
from muster.errors import MusterError
from muster.linux.eventloop import EventLoop
from muster.linux.processes import make_private
from muster.linux.writer import Writer
from muster.payloads import pickles
from muster.protocol import local_sockets
from muster.rundir import homes, last_imports, session, snapshots, sweeps
from muster.rundir import pace as paces
from muster.rundir.finding import look_for_runs
from muster.rundir.journal import Journal
from muster.rundir.run import Run
from muster.rundir.store import Store, remove_run
from muster.rundir.writer import RunWriter

pytestmark = pytest.mark.skipif(not POSSIBLE, reason="system calls are counted on x86-64 only")

ID = "20261127-101112-0123456789ab-x"
OUTCOME = {"state": "failed", "code": 1, "duration": 2.0}


class Case(NamedTuple):
    """A writer, and what reads the same."""

    write: Callable[[Run], object]
    read: Callable[[Run], Any]
    before: Callable[[Run], object] = lambda run: None
    grows: bool = False
    """Whether a reader may find any beginning of what is added."""


def _text(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _config(address: str) -> ControllerConfig:
    return ControllerConfig(1.0, address, 2.0, (NodeRecord("/x"),))


def _put(run: Run, name: str, *pieces: bytes) -> None:
    """Write a file as controllers do, in the thread of a writer."""
    with EventLoop() as loop:
        scribe = RunWriter(Writer(loop), run, lambda text: None)
        scribe.writer.start()
        at = 0
        for piece in pieces:
            scribe.put(name, at, piece)
            at += len(piece)
        scribe.close()


def _append(run: Run, *texts: str) -> None:
    journal = Journal(run.path / "events.jsonl")
    for text in texts:
        journal.append(json.dumps({"event": "say", "t": 1.0, "text": text}) + "\n")
    journal.close()


def _result(run: Run) -> Any:
    try:
        return pickles.read(str(run.path / "result")).says
    except FileNotFoundError:
        return "nothing"
    except pickles.Incomplete:
        return "incomplete"


def _imports(run: Run) -> Any:
    found = last_imports._of(run, "/x/train.py")
    return found and found.names


def _record_imports(run: Run) -> None:
    path = run.path / "attempt_0" / "rank_00000.imports"
    path.parent.mkdir(exist_ok=True)
    torch_server._record_imports(str(path), json.dumps({"program": "/x/train.py", "packages": "7", "unfit": {}}))


def _settle(run: Run, name: str) -> None:
    files = {name: json.dumps({"id": "new", "time": 2.0}) + "\n"}
    configuration = {"run_dir": str(run.path)}
    settle.write_files(configuration["run_dir"], b"the archive", files)


def _link(run: Run) -> None:
    (run.path / "log").touch()
    links.make_link(str(run.path), str(run.path.parents[2] / "logs" / "stdout.log"), str(run.path / "log"))


def _linked(run: Run) -> Any:
    """Every link to the run is recorded."""
    made = run.path.parents[2] / "logs" / "stdout.log"
    return str(made) in links._noted(str(run.path / links.RECORD)) if os.path.lexists(made) else "no link"


NEW = {"id": "new" * 3000, "time": 2.0}
SWEEP = Sweep((Point(0, (("lr", "1"),)), Point(1, (("lr", "2"),))), 2)

CASES = {
    "job": Case(lambda run: run.write("job.json", NEW), lambda run: run.job),
    "job anew": Case(
        lambda run: run.write("job.json", NEW), lambda run: run.job, lambda run: run.write("job.json", {"time": 1.0})
    ),
    "outcome": Case(lambda run: run.write_outcome(OUTCOME), lambda run: run.outcome),
    "reserve": Case(lambda run: run.reserve(3), lambda run: run.outcome),
    "snapshot": Case(
        lambda run: snapshots.write_snapshot(run, Snapshot(3.5, SnapshotReason.FAILURE, 0)), snapshots.last_snapshot
    ),
    "another snapshot": Case(
        lambda run: snapshots.write_snapshot(run, Snapshot(4.5, SnapshotReason.FAILURE, 0)),
        snapshots.last_snapshot,
        lambda run: snapshots.write_snapshot(run, Snapshot(3.5, SnapshotReason.FAILURE, 0)),
    ),
    "pace": Case(
        lambda run: paces.write_pace(run, 0, Pace("default", 12, 2)),
        paces.read_pace,
        lambda run: paces.write_pace(run, 0, Pace("default", 10, 2)),
    ),
    "session": Case(lambda run: session.write_session(run, {"g": 2}, _config("a"), [{}]), session.read_session),
    "sweep": Case(
        lambda run: sweeps.write_sweep(run, SWEEP, ["x.py"]),
        lambda run: sweeps.is_sweep(run) and (sweeps.sweep_of(run), sweeps.words_of(run)),
    ),
    "controller": Case(
        lambda run: run.write(RECORD, config_as_json(_config("new"))),
        lambda run: run.controller_config,
        lambda run: run.write(RECORD, config_as_json(_config("old"))),
    ),
    "token": Case(
        lambda run: local_sockets.keep(str(run.path), "new"),
        lambda run: _text(run.path / "token"),
        lambda run: local_sockets.keep(str(run.path), "old"),
    ),
    "events": Case(
        lambda run: _append(run, "two", "three"),
        lambda run: [event["text"] for event in run.events()],
        lambda run: _append(run, "one"),
        grows=True,
    ),
    "log": Case(
        lambda run: _put(run, "attempt_0/rank_00000.out", b"two\n" * 9, b"three\n"),
        lambda run: _text(run.path / "attempt_0/rank_00000.out"),
        grows=True,
    ),
    "resources": Case(
        lambda run: keep_file(run, "attempt_0/resources_0.json", b"[new, new, new]"),
        lambda run: _text(run.path / "attempt_0/resources_0.json"),
        lambda run: keep_file(run, "attempt_0/resources_0.json", b"[old, old, old, old]"),
    ),
    "plan sent to node 0": Case(
        lambda run: _settle(run, "plan.json"),
        lambda run: run.read("plan.json"),
        lambda run: run.write("plan.json", {"old": 1}),
    ),
    "piece of a remote file": Case(
        lambda run: remote.keep_piece(run, "events.jsonl", 4, b"new\n"),
        lambda run: _text(run.path / "events.jsonl"),
        lambda run: remote.keep_piece(run, "events.jsonl", 0, b"old\n"),
        grows=True,
    ),
    "way": Case(
        lambda run: remote.remember_way(run, remote.Way("ssh", ("ssh", "-p", "22"))),
        lambda run: remote._way(run, {"transport": "local"}),
    ),
    "elsewhere": Case(
        lambda run: homes.note(run.path.parents[1], run.path),
        lambda run: homes.noted(run.path.parents[1]),
    ),
    "link": Case(_link, _linked),
    "result": Case(lambda run: pickles.write(str(run.path / "result"), [1] * 9, {"kind": "value"}), _result),
    "imports": Case(_record_imports, _imports),
    "claim of --on-end": Case(
        lambda run: notification._claim(run, {"state": "failed"}).close(),
        lambda run: run.read(notification.FACTS),
    ),
    "bundle": Case(
        lambda run: bundle._write_own(run.path.parents[1] / "muster.pyz", b"new" * 9000),
        lambda run: bundle._own(run.path.parents[1] / "muster.pyz"),
        lambda run: bundle._write_own(run.path.parents[1] / "muster.pyz", b"old"),
    ),
    "digests of an environment": Case(
        lambda run: environments._save(str(run.path.parent / "e" / "x"), {"a": "new" * 9000}),
        lambda run: environments._load(str(run.path.parent / "e" / "x")),
        lambda run: environments._save(str(run.path.parent / "e" / "x"), {"a": "old"}),
    ),
}


def keep_file(run: Run, name: str, data: bytes) -> None:
    """Write a whole file as controllers do, in the thread of a writer."""
    with EventLoop() as loop:
        scribe = RunWriter(Writer(loop), run, lambda text: None)
        scribe.writer.start()
        scribe.replace(name, data)
        scribe.close()


@pytest.mark.parametrize("name", CASES)
def test_a_reader_finds_the_old_or_the_new_state_wherever_its_writer_is_cut(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    original = Run(tmp_path / "before" / "home" / "runs" / ID)
    make_private(str(original.path))
    case.before(original)
    old = case.read(original)

    def copy(name: str) -> Run:
        shutil.copytree(tmp_path / "before", tmp_path / name, symlinks=True)
        return Run(tmp_path / name / original.path.relative_to(tmp_path / "before"))

    run = copy("whole")
    every = cuts(lambda: case.write(run), str(tmp_path))
    assert every, "it writes something"
    new = case.read(run)
    shutil.rmtree(tmp_path / "whole")
    for at, how in every:
        run = copy("whole")  # always the same path: some readers return it
        before = set(run.path.rglob("*"))
        ended = run_cut(partial(case.write, run), str(tmp_path), at, how)
        assert ended.status in ((0, 1) if how is How.FULL else (-9,)), f"{at} {how}: {ended}"
        try:
            found = case.read(run)
        except MusterError as error:
            raise AssertionError(f"{at} {how}: {ended}: {error}") from error
        if case.grows:
            begun = found if found is not None else new[:0]
            assert new[: len(begun)] == begun and len(begun) >= len(old or ""), f"{at} {how}: {ended}: {found}"
        else:
            assert found in (old, new) or found == "incomplete", f"{at} {how}: {ended}: {found}"
        if how is How.FULL:
            parts = {path for path in set(run.path.parents[1].rglob("*")) - before if ".part" in path.name}
            assert not parts, f"{at} {how}: {ended}: {parts}"
        with suppress(FileExistsError):  # it is written once only
            case.write(run)  # what is left does not keep the next one from writing
        assert case.grows or case.read(run) == new, f"{at} {how}: {ended}: written again"
        shutil.rmtree(tmp_path / "whole")


def test_a_run_that_is_being_deleted_is_there_or_gone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    store = Store(home, (home,))

    def create() -> Run:
        run = Run(store.path(ID))
        shutil.rmtree(home, ignore_errors=True)
        make_private(str(run.path / "attempt_0"))
        run.write("job.json", {"id": ID, "time": 1.0})
        run.write_outcome(OUTCOME)
        (run.path / "attempt_0/rank_00000.out").write_text("hello")
        return run

    run = create()
    every = cuts(lambda: remove_run(store, run), str(home))
    for at, how in every:
        run = create()
        run_cut(partial(remove_run, store, run), str(home), at, how)
        found = look_for_runs(store).runs
        assert not found or (found[0].outcome is not None and (run.path / "attempt_0/rank_00000.out").exists())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root deletes runs of others")
def test_root_moves_nothing_where_another_user_says(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    run = Run(Store(home).path(ID))
    make_private(str(run.path))
    elsewhere.mkdir()
    (run.path.parent / ".deleted").symlink_to(elsewhere)
    os.chown(run.path.parent, 65533, -1)
    remove_run(Store(home, (home,)), run)
    assert not run.path.exists() and not list(elsewhere.iterdir())
