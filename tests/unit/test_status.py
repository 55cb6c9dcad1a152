"""The status of a run, from this machine, another one, or a scheduler; determining it writes nothing."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from muster.client import follow, reconcile
from muster.client.client import Client
from muster.client.follow import Follower, Waited, wait
from muster.client.status import Controller, RunStatus, status
from muster.core.results import RunResult, RunState, StopKind, StopReason
from muster.rundir.job_record import Scheduled
from muster.rundir.run import Run, Unreadable
from muster.ui.reason_text import reason_in_words
from muster.ui.text import outcome_as_json

ID = "20261127-101112-0123456789abc-train"
HERE = {"host": "n0", "boot": "b1"}
FAILED = RunResult(RunState.FAILED, 3, 2.0)
SERVED: dict[str, Any] = {"served": {"name": "n2", "user": ""}, "host": "n2", "there": "/there"}
QUEUED: dict[str, Any] = {"host": "n1", "there": "/there", "served": {"name": "", "user": ""}}


def in_job(**more: Any) -> dict[str, Any]:
    """The part of job.json about a job of Slurm."""
    return {**QUEUED, "scheduler": {"name": "slurm", "job": "17", **more}}


SLURM = in_job()
GONE = Controller(False)


@dataclass
class Told:
    """Fake answers about a run."""

    anothers: bool = False
    machine: dict[str, str] = field(default_factory=lambda: dict(HERE))
    queue: str | None = ""
    accounting: str = ""
    who: str = ""
    why: str = ""
    controls: Controller = GONE
    agent: bool = False
    starter: bool = False

    def now(self) -> float:
        return 1010.0

    def queued(self) -> str | None:
        return self.queue

    def waiting(self) -> str:
        return self.why

    def past(self) -> str:
        return self.accounting

    def cancelled_by(self) -> str:
        return self.who

    def controller(self) -> Controller:
        return self.controls

    def listens(self) -> bool:
        return self.agent

    def starter_lives(self) -> bool:
        return self.starter


def made(root: Path, outcome: RunResult | None = None, files: dict[str, Any] | None = None, **job: Any) -> Run:
    """Create a run directory with this in its job.json."""
    path = root / "runs" / ID
    path.mkdir(mode=0o700, parents=True)
    record = {"id": ID, "name": "", "time": 1000.0, **HERE, "ranks": 2, **job}
    texts = {"job.json": record, **(files or {})}
    if outcome is not None:
        texts["outcome.json"] = outcome_as_json(outcome)
    for name, data in texts.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(json.dumps(data))
    return Run(path)


def seen(root: Path) -> dict[str, Any]:
    """Return all files in there, and their modification times."""
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in root.rglob("*")}


def early(words: str) -> RunResult:
    """Return the result of a job that never started."""
    return RunResult(RunState.KILLED, 137, 0.0, 0, StopReason(StopKind.OTHER, message=words))


KILLED = {"node_n0/ended.json": {"why": "muster was killed"}}
CASES: dict[str, tuple[dict[str, Any], Told, RunStatus]] = {
    "it has ended": ({"outcome": FAILED}, Told(agent=True), RunStatus(RunState.FAILED, outcome=FAILED)),
    "its agent is here": ({}, Told(agent=True), RunStatus(RunState.RUNNING)),
    "the command that started it is here": ({}, Told(starter=True), RunStatus(RunState.RUNNING)),
    "all are gone": (
        {},
        Told(),
        RunStatus(RunState.LOST, "muster and its agent were killed, or the disk was full"),
    ),
    "its agent has left word": (
        {"files": KILLED},
        Told(),
        RunStatus(RunState.LOST, "muster was killed, and its agent terminated the ranks"),
    ),
    "the machine was restarted": (
        {"boot": "b0"},
        Told(starter=True),
        RunStatus(RunState.LOST, "the machine rebooted during the run"),
    ),
    "it is of another machine": (
        {"host": "n9"},
        Told(starter=True),
        RunStatus(RunState.UNKNOWN, "it was started on n9; run this command there"),
    ),
    "its controller answers": (SERVED, Told(controls=Controller(True)), RunStatus(RunState.RUNNING, heard=True)),
    "its controller is silent": (
        SERVED,
        Told(controls=Controller(True, "ssh: timed out")),
        RunStatus(RunState.UNKNOWN, "no answer from its controller on n2: ssh: timed out"),
    ),
    "its controller is gone": (
        SERVED,
        Told(),
        RunStatus(RunState.LOST, "muster and its agent were killed, or the disk was full", elsewhere=True),
    ),
    "Slurm has it in its queue": (SLURM, Told(queue="PENDING"), RunStatus(RunState.PENDING)),
    "Slurm says why it waits": (
        SLURM,
        Told(queue="PENDING", why="waiting for free nodes (Resources)"),
        RunStatus(RunState.PENDING, "waiting for free nodes (Resources)"),
    ),
    "Slurm runs it": (SLURM, Told(queue="RUNNING"), RunStatus(RunState.RUNNING, heard=True)),
    "Slurm is silent": (SLURM, Told(queue=None), RunStatus(RunState.UNKNOWN, "no answer from Slurm")),
    "Slurm has forgotten it, and it had begun": (
        {**SLURM, "files": {"slurm-17.out": {}}},
        Told(),
        RunStatus(RunState.LOST, "job 17 is no longer known to Slurm"),
    ),
    "it has left the queue of Slurm without having begun": (
        SLURM,
        Told(),
        RunStatus(RunState.KILLED, outcome=early("it was cancelled")),
    ),
    "it was to begin after others": (
        in_job(after=["15:ok", "16:any"]),
        Told(),
        RunStatus(
            RunState.KILLED,
            outcome=early("it was cancelled; it was to start once job 15 has succeeded and job 16 has ended"),
        ),
    ),
    "in an allocation its controller is asked": (
        {**in_job(allocated=True), "files": {"controller.json": {}}},
        Told(queue=None, controls=Controller(True)),
        RunStatus(RunState.RUNNING, heard=True),
    ),
    "an attempt has ended, and there will be another": (
        {**in_job(requeue=1), "outcome": FAILED},
        Told(queue="PENDING"),
        RunStatus(RunState.PENDING),
    ),
    "the last attempt has ended": (
        {**in_job(requeue=1), "outcome": FAILED},
        Told(queue=""),
        RunStatus(RunState.FAILED, outcome=FAILED),
    ),
    "root, and its user's agent is here": (SERVED, Told(anothers=True, agent=True), RunStatus(RunState.RUNNING)),
    "root asks no host": (
        SERVED,
        Told(anothers=True, controls=Controller(True)),
        RunStatus(RunState.UNKNOWN, "it belongs to another user; run this command as that user"),
    ),
    "root, and the user's controller is starting": (
        {**SERVED, **HERE, "time": 1008.0},
        Told(anothers=True),
        RunStatus(RunState.RUNNING),
    ),
    "root, and the user's controller is gone": (
        {**SERVED, **HERE},
        Told(anothers=True),
        RunStatus(RunState.LOST, "muster and its agent were killed, or the disk was full"),
    ),
    "root, and the user's command is here": ({}, Told(anothers=True, starter=True), RunStatus(RunState.RUNNING)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_status_of_a_run(case: str, tmp_path: Path) -> None:
    job, told, expected = CASES[case]
    run = made(tmp_path, **job)
    before = seen(tmp_path)
    assert expected == status(run, told)
    assert before == seen(tmp_path), "it is only looked at"


ENDS = {
    "CANCELLED": (RunState.KILLED, 137),
    "TIMEOUT": (RunState.TIMED_OUT, 124),
    "NODE_FAIL": (RunState.ERROR, 125),
    "FAILED": (RunState.ERROR, 125),
}


@pytest.mark.parametrize("state", ENDS)
@pytest.mark.parametrize("by", ["queue", "accounting"])
def test_an_end_that_slurm_alone_saw(state: str, by: str, tmp_path: Path) -> None:
    run = made(tmp_path, files={"attempt_0/rank_00000.out": ""}, **SLURM)
    before = seen(tmp_path)
    found = status(run, Told(queue=state, who="ann") if by == "queue" else Told(accounting=state, who="ann"))
    outcome = found.outcome
    assert outcome is not None and (found.state, outcome.code, outcome.duration) == (*ENDS[state], 10.0)
    assert state in reason_in_words(outcome.stopped) and ("ann" in reason_in_words(outcome.stopped)) == (
        state == "CANCELLED"
    )
    assert before == seen(tmp_path)


def test_a_run_of_the_version_before(tmp_path: Path) -> None:
    """Its job.json knows no scheduler but Slurm, which its plan calls `place`."""
    program = {"kind": "script", "argv": ["train.py"]}
    job = {"program": program, "launcher": "fork", "python": "python3", "python_why": "", "cwd": "/", "place": "slurm"}
    old: dict[str, Any] = {"slurm": "17", "slurm_name": "train", "requeue": 2, "allocated": True, "job": job}
    run = made(tmp_path, **QUEUED, **old)
    assert Scheduled("slurm", "17", "train", allocated=True, requeue=2) == run.scheduled
    assert RunStatus(RunState.PENDING) == status(run, Told(queue="PENDING"))
    assert ("step", "slurm") == (run.job["job"]["transport"], run.job["job"]["scheduler"])


@pytest.mark.parametrize(
    ("job", "says"),
    [
        ({"slurm": "--help;x"}, "not a job id"),
        ({"scheduler": {"name": "slurm", "job": "--help;x"}}, "not a job id"),
        ({"scheduler": {"name": "nosuch", "job": "1"}}, "unknown scheduler"),
    ],
)
def test_what_would_stand_on_a_command_line_is_checked(job: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=says):
        status(made(tmp_path, **QUEUED, **job), Told())


def test_damaged_records_are_reported(tmp_path: Path) -> None:
    run = made(tmp_path)
    (run.path / "job.json").write_text("{")
    with pytest.raises(Unreadable):
        status(run, Told())
    assert [RunState.UNREADABLE] == [found.state for found in reconcile.statuses([run], 1.0)]


def test_controllers_are_asked_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answers only once all have been asked; those of a queue are asked in one thread, which caches the answer."""
    far = [made(tmp_path / str(number), **SERVED) for number in range(3)]
    queued = [made(tmp_path / "a", **SLURM), made(tmp_path / "b", **SLURM)]
    for number, run in enumerate((*far, *queued)):
        run.id = str(number)
    together = threading.Barrier(3)
    threads: dict[str, int] = {}

    def found(run: Run, within: float, client: Client | None = None) -> RunStatus:
        threads[run.id] = threading.get_ident()
        if run in far:
            together.wait(20)
        return RunStatus(RunState.RUNNING)

    monkeypatch.setattr(reconcile, "reconcile", found)
    states = [status.state for status in reconcile.statuses([*far, *queued], 60.0)]
    assert [RunState.RUNNING] * 5 == states
    assert threads["3"] == threads["4"]


def test_the_run_directory_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known only elsewhere is recorded here, once; and not by root in a directory of another user."""
    ended = RunResult(RunState.KILLED, 137, 1.0, stopped=StopReason(StopKind.OTHER, message="cancelled"))
    run = made(tmp_path)
    for found, anothers, written in (
        (RunStatus(RunState.RUNNING, heard=True), True, set()),
        (RunStatus(RunState.RUNNING), False, set()),
        (RunStatus(RunState.RUNNING, heard=True), False, {"answered"}),
        (RunStatus(ended.state, outcome=ended), False, {"answered", "outcome.json"}),
    ):
        monkeypatch.setattr(reconcile, "status", lambda run, sight, found=found: found)
        monkeypatch.setattr(reconcile, "is_anothers", lambda run, anothers=anothers: anothers)
        assert found == reconcile.reconcile(run)
        assert {"job.json", *written} == set(os.listdir(run.path))
    assert ended == run.outcome


def test_waiting_ends_with_the_run_or_with_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only runs that were still unfinished at the timeout are reported as late, whatever their state."""
    run = made(tmp_path, **SLURM)
    states = iter((RunState.RUNNING, RunState.PENDING, RunState.UNKNOWN, RunState.LOST))
    monkeypatch.setattr(Follower, "_subscribe", lambda self, left: None)
    monkeypatch.setattr(follow, "_PAUSE", 0.0)

    def waited(state: Callable[[], RunState], timeout: float | None) -> Waited:
        monkeypatch.setattr(follow, "reconcile", lambda run, client: RunStatus(state()))
        return wait(Follower(run, Client(run)), timeout)

    assert Waited(RunStatus(RunState.LOST), True) == waited(lambda: next(states), None)
    for state in (RunState.RUNNING, RunState.PENDING, RunState.UNKNOWN):
        assert Waited(RunStatus(state), False) == waited(lambda state=state: state, 0.0)  # type: ignore[misc]
    assert waited(lambda: RunState.FAILED, 0.0).in_time
