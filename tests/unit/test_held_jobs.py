"""The end of a scheduler's job in which a session is: its run ends first, with the same reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from manual_loop import ManualLoop

from muster.controller.connections import TcpConnection
from muster.controller.held import HeldRuns
from muster.core.controller_config import ControllerConfig, NodeRecord
from muster.core.events import JobEnding, StopRequested
from muster.core.layout import layout
from muster.core.model import Host, Job, Program, as_json
from muster.core.results import RunResult, RunState
from muster.core.supervisor import Supervisor, SupervisorConfig
from muster.launchers import make_plan
from muster.protocol.channel import Channel
from muster.rundir.run import Run


class Controller:
    """Records what the session decides."""

    def __init__(self, folder: Path) -> None:
        self.loop, self.secret = ManualLoop(), "secret"
        job = Job(Program("command", ("true",)), "exec", "python3", "--python", "/", hold=0.0)
        self.plan = make_plan(job, layout([(Host("n1"), 1)]), "20261128-000000-abcdef")
        self.run = Run(folder)
        self.supervisor = Supervisor(SupervisorConfig((0,), 1, (0,), 5.0))
        self.config = ControllerConfig(0.0, "127.0.0.1", 0.0, (NodeRecord(str(folder)),))
        self.far = [TcpConnection(0, "n1", 0.0, {})]
        self.far[0].channel = Channel(reading=0, writing=1)
        self.events: list[Any] = []
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.replies: list[Any] = []

    def now(self) -> float:
        return self.loop.time()

    def handle(self, event: StopRequested | JobEnding) -> None:
        self.events.append(event)

    def record(self, kind: str, fields: object) -> None:
        """Not needed."""

    def send_message(self, node: int, kind: str, payload: bytes = b"", /, **fields: Any) -> None:
        self.sent.append((kind, fields))


@pytest.fixture
def world(tmp_path: Path) -> Controller:
    return Controller(tmp_path)


def test_without_a_run_the_session_ends_at_once(world: Controller) -> None:
    event = JobEnding(1.0, "cancelled", 20.0)
    HeldRuns(world, 0.0).job_ends(event)
    assert [event] == world.events


def busy(world: Controller, folder: Path) -> HeldRuns:
    """Return a session with a run on it."""
    held = HeldRuns(world, 0.0)
    world.supervisor._ready.add(0)
    held.begin(order(folder), world.replies.append)
    held.hosted(0, "a", "", 0, "")
    assert [{"run_dir": str(folder / "run")}] == world.replies
    return held


def order(folder: Path) -> dict[str, Any]:
    """Return what a client sends."""
    nodes = [{"run_dir": str(folder / "run")}]
    asked: dict[str, Any] = {"run_id": "a", "config": {"nodes": nodes}, "files": {}, "parts": [{"clock": None}]}
    asked.update(age=0.0, wall=0.0, secret="", lease=30.0, script={}, umask=None, function="", inherited=None)
    return asked


def test_its_run_ends_first_and_no_other_begins(world: Controller, tmp_path: Path) -> None:
    held = busy(world, tmp_path)
    held.job_ends(JobEnding(1.0, "time limit", 20.0))
    kind, fields = world.sent[-1]
    assert "stop_run" == kind and "time limit" == fields["cause"] and 0 < fields["within"] < 20.0
    assert [] == world.events
    held.begin(order(tmp_path), world.replies.append)
    assert "the session is ending" == world.replies[-1]["refused"]
    held.left(0, "a")
    world.loop.advance(0.2)
    (event,) = world.events
    assert "time limit" == event.cause


def test_a_run_that_does_not_end_leaves_time_to_report(world: Controller, tmp_path: Path) -> None:
    busy(world, tmp_path).job_ends(JobEnding(1.0, "cancelled", 20.0))
    began = world.now()
    world.loop.advance(25.0)
    (event,) = world.events
    assert event.t < began + 20.0, "before the scheduler kills the session"


def test_a_new_controller_learns_which_run_is_there(world: Controller, tmp_path: Path) -> None:
    held = HeldRuns(world, 0.0)
    world.supervisor._ready.add(0)
    held.hosted(0, "b", "", 0, str(tmp_path / "run"))
    held.begin(order(tmp_path), world.replies.append)
    assert "b runs on it since" in world.replies[-1]["refused"]
    held.left(0, "b")
    held.begin(order(tmp_path), world.replies.append)
    assert "start_run" == world.sent[-1][0]


def test_a_run_that_a_node_cannot_take_leaves_the_one_there_alone(world: Controller, tmp_path: Path) -> None:
    held = HeldRuns(world, 0.0)
    world.supervisor._ready.add(0)
    held.begin(order(tmp_path), world.replies.append)
    held.hosted(0, "a", "b is still here", 0, "")
    assert "n1: b is still here" == world.replies[-1]["refused"]
    assert "stop_run" not in [kind for kind, _ in world.sent]


def test_the_next_run_begins_as_soon_as_the_last_one_has_left(world: Controller, tmp_path: Path) -> None:
    held = busy(world, tmp_path)
    (tmp_path / "run").mkdir()
    Run(tmp_path / "run").write("outcome.json", as_json(RunResult(RunState.SUCCEEDED, 0, 1.0)))
    started = len(world.sent)
    held.begin(order(tmp_path), world.replies.append)
    assert started == len(world.sent), "the last one is still ending"
    held.left(0, "a")
    assert "start_run" == world.sent[-1][0] and started + 1 == len(world.sent)
