"""The `--on-end` command: what it reads, that it runs once, and that it cannot hold anything up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_status import ID, made
from waiting import until

from muster import notification
from muster.client import reconcile
from muster.core.results import RunResult, RunState
from muster.linux.identity import identity
from muster.notification import failure_in_words, notify, status_of, told_in_words
from muster.rundir.run import Run

FAILED = RunResult(RunState.FAILED, 3, 2.0)


def run_with(command: str, folder: Path, outcome: RunResult | None = None, **more: Any) -> Run:
    """Return a run with this `--on-end` command, whose working directory is `folder`."""
    program = {"kind": "script", "argv": ["train.py"]}
    job = {"program": program, "launcher": "fork", "python": "python", "python_source": "", "cwd": str(folder)}
    told = {"job": {**job, "on_end": command}, "cwd": str(folder), "argv": ["muster", "run"], **more}
    return made(folder, outcome, **told)


def end(run: Run, *more: Any) -> None:
    """Run the command to its end."""
    started = notify(run, *(more or (RunState.FAILED, FAILED)))
    assert started is not None
    started.wait()


def test_it_reads_the_end_as_json_in_the_directory_of_the_run(tmp_path: Path) -> None:
    run = run_with('cat >end.json; echo "$MUSTER_RUN_ID $MUSTER_STATUS"', tmp_path, name="exp")
    end(run)
    told = json.loads((tmp_path / "end.json").read_text())
    assert ("failed", 3, 2.0, 2) == tuple(told[name] for name in ("status", "exit_code", "duration", "ranks"))
    assert (ID, "exp", str(run.path)) == (told["run"], told["name"], told["run_dir"])
    assert told["text"].startswith("exp: ")
    assert f"{ID} failed\n" == (run.path / notification.LOG).read_text()
    assert (0, "") == (status_of(run), failure_in_words(run))


def test_it_runs_once(tmp_path: Path) -> None:
    run = run_with("echo again >>said", tmp_path)
    end(run)
    assert notify(run, RunState.LOST, None) is None
    assert "again\n" == (tmp_path / "said").read_text()


def test_its_failure_is_told_with_its_last_line(tmp_path: Path) -> None:
    run = run_with("echo one; echo no such address >&2; exit 5", tmp_path)
    end(run)
    assert "exited with status 5" in failure_in_words(run)
    assert told_in_words(run).startswith("on end   exit status 5: no such address (2 lines in ")


def test_one_that_takes_too_long_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notification, "LIMIT", 1)
    run = run_with("sleep 600", tmp_path)
    end(run)
    assert "was killed after 1" in failure_in_words(run)


def test_a_run_without_one_writes_nothing(tmp_path: Path) -> None:
    run = made(tmp_path)
    assert notify(run, RunState.FAILED, FAILED) is None
    assert ["job.json"] == [path.name for path in run.path.iterdir()]


def test_the_command_that_finds_a_run_lost_tells_of_it(tmp_path: Path) -> None:
    run = run_with("cat >end.json", tmp_path, **identity())
    for _ in range(2):
        assert RunState.LOST is reconcile.reconcile(run).state
    until(lambda: status_of(run) == 0, "the command has exited")
    told = json.loads((tmp_path / "end.json").read_text())
    assert ("lost", None) == (told["status"], told["exit_code"])
    assert told["verdict"].startswith("lost: ")


def test_a_run_whose_controller_recorded_the_end_is_left_to_it(tmp_path: Path) -> None:
    run = run_with("true", tmp_path, FAILED)
    assert RunState.FAILED is reconcile.reconcile(run).state
    assert not (run.path / notification.FACTS).exists()
