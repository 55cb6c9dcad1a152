"""Run directories: damaged, cut and hostile files give what is left of a run, or one sentence; so do cut writers."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fuzzing import any_json, bytes_near, result_or_sentence, spoilt
from hypothesis import example, given, settings
from hypothesis import strategies as st

from muster.cli import call
from muster.core.events import event_from_json
from muster.core.inspection import CollectiveRecord, GroupState, Inspection, Snapshot, SnapshotReason, ThreadState
from muster.core.json_checks import NOT_UNDERSTOOD
from muster.core.model import as_json
from muster.core.pace import Pace, Slow
from muster.errors import MusterError
from muster.rundir import accounting, comparing, metrics, pace, progress, resources, session, sweeps
from muster.rundir import snapshots as snaps
from muster.rundir.journal import Journal
from muster.rundir.run import Run

FEW = settings(max_examples=max(10, settings().max_examples // 4))
SNAPSHOT = Snapshot(
    3.5,
    SnapshotReason.FAILURE,
    0,
    inspections=(
        Inspection(
            0,
            0,
            7,
            stacks="File x, line 3",
            collectives=(CollectiveRecord("default", 3, "all_reduce"),),
            groups=(GroupState("default"),),
            threads=(ThreadState(7),),
        ),
    ),
)

PACE = Pace("default", 12, 2, slow=(Slow((1,), 0, 0.5, 0.4),))


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a real run, in which a rank has failed."""
    home = tmp_path_factory.mktemp("home")
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "MUSTER_HOME": str(home), "OMP_NUM_THREADS": "1"}
    words = ["run", "-g", "2", "--", "sh", "-c", "echo step 3 loss=1.5; exit $((RANK * 3))"]
    done = subprocess.run([sys.executable, "-m", "muster", *words], env=env, capture_output=True, timeout=200)
    assert done.returncode == 3, done.stderr
    (run,) = (home / "runs").iterdir()
    snaps.write_snapshot(Run(run), SNAPSHOT)
    pace.write_pace(Run(run), 0, PACE)
    return home


def documents(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.rglob("*.json*") if path.is_file())


@contextmanager
def copy_of(home: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder, "home")
        shutil.copytree(home, copied, symlinks=True)
        yield copied


COMMANDS = (
    ["show", "last"],
    ["show", "last", "--json"],
    ["ps", "-a"],
    ["logs", "last"],
    ["why", "last"],
    ["stacks", "last"],
    ["diff", "last", "last"],
    ["report", "last", "--output", "/dev/null"],
)


def try_commands(home: Path, commands: Any = COMMANDS) -> None:
    """Call commands that read a run: they print something, or one sentence."""
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "MUSTER_HOME": str(home)}
    for words in commands:
        out, err = (io.TextIOWrapper(io.BytesIO(), errors="backslashreplace") for _ in range(2))
        with redirect_stdout(out), redirect_stderr(err):
            result_or_sentence(partial(call, list(words), env, time.monotonic()))


def read_all(run: Run) -> None:
    """Call every function that reads a file of a run."""
    for name in ("job", "scheduled", "plan", "controller_config", "hosts", "outcome"):
        result_or_sentence(partial(getattr, run, name))
    for event in result_or_sentence(run.events) or []:
        result_or_sentence(partial(event_from_json, event), *NOT_UNDERSTOOD)  # which its callers expect
    result_or_sentence(run.provenance)
    for read in (snaps.last_snapshot, pace.read_pace, session.read_session, sweeps.sweep_of, sweeps.words_of):
        result_or_sentence(partial(read, run))
    for attempt in run.attempts():
        result_or_sentence(partial(snaps.snapshots, run, attempt))
        resources.resources_of(run, attempt)
    accounting.granted_of(run)
    metrics.metrics_of(run)
    progress.progress_in_run_dir(run)
    result_or_sentence(partial(comparing.facts_for_comparison, run))
    result_or_sentence(partial(comparing.last_success, run))
    outcome = result_or_sentence(lambda: run.outcome)
    if outcome is not None:
        progress.progress_at_end(outcome)
        result_or_sentence(partial(accounting.use_of, run, outcome))


@given(data=st.data())
def test_any_document_in_a_run_is_read_or_reported(real_run: Path, data: st.DataObject) -> None:
    (original,) = (real_run / "runs").iterdir()
    name = data.draw(st.sampled_from(documents(original)))
    text = (original / name).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder, original.name))
        shutil.copytree(original, run.path, symlinks=True)
        (run.path / name).write_bytes(_damaged(data, text))
        read_all(run)


def _damaged(data: st.DataObject, text: bytes) -> bytes:
    """Draw a damaged file: bytes changed, or values of a JSON document."""
    if data.draw(st.booleans()):
        return data.draw(bytes_near(text))
    lines = text.splitlines() if text.count(b"\n{") else [text]
    at = data.draw(st.integers(0, len(lines) - 1))
    try:
        lines[at] = json.dumps(data.draw(spoilt(json.loads(lines[at])))).encode()
    except ValueError:  # an integer of thousands of digits
        lines[at] = b"9" * 5000
    return b"\n".join(lines) + b"\n"


@pytest.mark.filterwarnings("ignore:.*unclosed file")  # commands leave files open for the end of their process
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@FEW
@given(data=st.data())
def test_any_document_in_a_run_is_shown_or_reported(real_run: Path, data: st.DataObject) -> None:
    (original,) = (real_run / "runs").iterdir()
    name = data.draw(st.sampled_from(documents(original)))
    with copy_of(real_run) as home:
        path = home / "runs" / original.name / name
        path.write_bytes(_damaged(data, path.read_bytes()))
        try_commands(home)


_OTHERS: dict[str, Any] = {
    "granted.json": {"n1": {"cores": 8, "memory": 1 << 30, "gpus": 2}},
    "sweep.json": {"points": [{"number": 0, "values": [["lr", "1"]]}], "most": 2, "chain": False, "words": ["x.py"]},
    "session.json": {"options": {}, "config": {}, "facts": [{}], "env": {"A": "b"}},
    "attempt_0/pace.json": json.loads(json.dumps(as_json(PACE))),
    "attempt_0/snapshot_0.json": json.loads(json.dumps(as_json(SNAPSHOT))),
    "controller.json": {"began": 1.0, "address": "", "clock": 1.0, "nodes": [{"run_dir": "/x"}]},
}


@pytest.mark.parametrize("name", _OTHERS)
@given(data=st.data())
def test_any_other_document_is_read_or_reported(name: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder, "20261127-101112-0123456789ab-x"))
        (run.path / "attempt_0").mkdir(parents=True)
        document = data.draw(spoilt(_OTHERS[name]) | any_json)
        try:
            (run.path / name).write_text(json.dumps(document))
        except ValueError:
            return
        read_all(run)


@pytest.mark.parametrize("name", ["hello", "warm", "output began", "ended", "do signal", "say", "begin"])
def test_an_event_with_a_field_of_another_type_is_left_out(real_run: Path, name: str) -> None:
    """`"node": []` was a TypeError of `muster report`."""
    (original,) = (real_run / "runs").iterdir()
    with copy_of(real_run) as home:
        run = Run(home / "runs" / original.name)
        before = run.events()
        with open(run.path / "events.jsonl", "a") as file:
            for key in ("node", "rank", "attempt", "t"):
                print(json.dumps({"event": name, "t": 0.1, "attempt": 0, "rank": 0, "node": 0, key: []}), file=file)
        assert run.events() == before
        try_commands(home, [["report", "last", "--output", "/dev/null"]])


@given(st.binary(max_size=300) | bytes_near(b"loss=0.12 step: 3\n", b'{"loss": 1e-3}\n'))
@example(b"loss=" + b"9" * 5000)
def test_any_log_gives_numbers(data: bytes) -> None:
    found = metrics.last_numbers(data.decode(errors="replace"))
    assert all(value for value in found.values())


# ---- writers that are cut -------------------------------------------------------------------------------------------


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let files grow to this many bytes only: a write beyond is cut short, and the next one fails (EFBIG)."""
    before, bytecode = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # Python would keep what was cut short, of modules that are imported late
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = bytecode


def test_a_document_is_the_old_or_the_new_one_wherever_its_writer_is_cut(tmp_path: Path) -> None:
    run, old, new = Run(tmp_path), {"id": "old", "time": 1.0}, {"id": "new" * 30, "time": 2.0}
    size = len((json.dumps(new, indent=1) + "\n").encode())
    for room in range(size + 2):
        run.write("job.json", old)
        with room_for(room):
            try:
                run.write("job.json", new)
            except OSError:
                assert run.job == old
            else:
                assert room >= size and run.job == new
        assert ["job.json"] == os.listdir(tmp_path), "no part is left behind"


def test_events_are_complete_lines_wherever_their_writer_is_cut(tmp_path: Path) -> None:
    events = [json.dumps({"event": "say", "t": float(number), "text": "é" * number}) + "\n" for number in range(6)]
    whole = "".join(events).encode()
    for room in range(len(whole) + 1):
        path = tmp_path / f"{room}" / "events.jsonl"
        path.parent.mkdir()
        journal = Journal(path)
        with room_for(room):
            for event in events:
                try:
                    journal.append(event)
                except OSError:
                    pass
        assert path.read_bytes() == whole[:room]
        found = Run(path.parent).events()
        assert [event["t"] for event in found] == [float(number) for number in range(len(found))]
        journal.flush()  # there is room again: nothing is lost, nothing twice
        assert path.read_bytes() == whole and 0 == journal.close()


def test_a_run_is_read_or_reported_wherever_each_of_its_files_is_cut(real_run: Path) -> None:
    """Files that are not replaced atomically, of a disk that lost its last blocks, or of a machine that crashed."""
    (original,) = (real_run / "runs").iterdir()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder, original.name))
        shutil.copytree(original, run.path, symlinks=True)
        for name in documents(original):
            data = (original / name).read_bytes()
            step = max(1, len(data) // 40)
            for size in [*range(0, len(data), step), len(data) - 1]:
                (run.path / name).write_bytes(data[:size])
                for read in ("job", "plan", "outcome"):
                    try:
                        getattr(run, read)
                    except MusterError as error:
                        assert f"cannot read {name}" in error.sentence
                run.events()
            (run.path / name).write_bytes(data)
        read_all(run)


@pytest.mark.parametrize(("version", "newer"), [("99.0", True), ("0.999.dev1", True), ("0.0.9", False), ("", False)])
def test_what_a_newer_version_has_written_is_read_or_refused_with_its_version(
    tmp_path: Path, version: str, newer: bool
) -> None:
    run = Run(tmp_path)
    outcome = {"state": "failed", "code": 1, "duration": 2.0}
    run.write("job.json", {"muster": version, "time": 1.0, "unknown": [{}]})
    run.write("outcome.json", {**outcome, "unknown": {}})
    assert run.outcome is not None and run.outcome.code == 1, "keys that are not known are ignored"
    run.write("outcome.json", {**outcome, "state": "hibernated"})
    with pytest.raises(MusterError, match="`state`: 'hibernated' is not one") as caught:
        assert run.outcome
    told = f"muster {version} has written it, which is newer than this one"
    assert (told in str(caught.value.hint)) == newer
    assert ("muster rm" in str(caught.value.hint)) == (not newer)
