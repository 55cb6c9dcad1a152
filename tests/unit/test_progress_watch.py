"""When a run counts as hanging: what is progress of a rank, of a node, of the run; and what is done then."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from manual_loop import ManualLoop
from waiting import until

from muster.agent.progress import Measured, ProgressWatch, progressed, reads_stdin
from muster.agent.rank_server import Subject
from muster.controller.connections import AgentConnection
from muster.controller.controller import fields_of
from muster.controller.hangs import Hangs
from muster.controller.snapshots import Snapshots
from muster.core.events import (
    AgentReady,
    CleanedUp,
    Configured,
    Event,
    Finish,
    HangDetected,
    Hanging,
    RankExited,
    Restarting,
    SignalRanks,
    StoreOpened,
    event_from_json,
)
from muster.core.inspection import Snapshot, SnapshotReason
from muster.core.layout import layout
from muster.core.model import Host, Job, Program
from muster.core.results import SIGTERM, OnHang
from muster.core.supervisor import Supervisor, SupervisorConfig
from muster.launchers import make_plan
from muster.protocol.channel import Channel
from muster.ui.reason_text import notice_in_words, reason_in_words

QUIET = Measured(0.0, output=10, cpu=1.0, io=1000, faults=3, collectives=8)
LATER = QUIET._replace(when=10.0)


@pytest.mark.parametrize(
    ("now", "moved"),
    [
        (LATER, False),
        (LATER._replace(output=11), True),
        (LATER._replace(output=0), True),  # the log was truncated
        (LATER._replace(collectives=9), True),
        (LATER._replace(collectives=-1), False),  # its recorder did not answer
        (LATER._replace(cpu=1.4), False),
        (LATER._replace(cpu=1.5), True),
        (LATER._replace(io=66000), False),
        (LATER._replace(io=66536), True),
        (LATER._replace(faults=18), False),
        (LATER._replace(faults=19), True),
        (LATER._replace(step=1), True),
    ],
)
def test_progress_of_a_rank(now: Measured, moved: bool) -> None:
    assert moved == progressed(QUIET, now)


def test_a_rank_that_spins_in_a_collective_makes_no_progress() -> None:
    waits, spins = QUIET._replace(pending=True), LATER._replace(pending=True, cpu=11.0, io=1 << 30)
    assert not progressed(waits, spins)
    assert progressed(waits, spins._replace(collectives=9))
    assert progressed(waits, spins._replace(step=9))
    assert progressed(QUIET, spins), "it computed before it called the collective"


class Watched:
    """A watch of one process, whose log is a file, with a clock that is moved by hand."""

    def __init__(self, folder: Path, pid: int, monkeypatch: pytest.MonkeyPatch, always: bool) -> None:
        self.loop, self.log, self.told = ManualLoop(), folder / "log", list[float]()
        self.log.touch()
        self.step = -1
        monkeypatch.setattr("time.monotonic", self.loop.time)
        subject = Subject(0, pid, "", "")
        self.watch = ProgressWatch(
            self.loop,
            80.0,
            lambda: [subject],
            lambda rank: [str(self.log)],
            lambda rank: self.step,
            None,
            self.told.append,
            always,
        )
        self.watch.begin()


@pytest.fixture
def sleeper() -> Any:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process.pid
        process.kill()


def test_a_node_tells_since_when_it_is_idle(sleeper: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(tmp_path, sleeper, monkeypatch, always=True)
    watched.loop.advance(12.0)  # the first measurement
    first = watched.loop.time() - 2.0
    watched.loop.advance(35.0)
    assert [] == watched.told
    watched.loop.advance(20.0)
    assert 1 == len(set(watched.told)) and first == pytest.approx(watched.told[0])
    watched.log.write_text("a line")
    before = len(watched.told)
    watched.loop.advance(10.0)
    assert before + 1 == len(watched.told) and watched.told[-1] > first, "there is progress again"
    watched.loop.advance(20.0)
    assert before + 1 == len(watched.told)
    watched.loop.advance(40.0)
    before, last = len(watched.told), watched.told[-1]
    watched.step = 7  # as `muster.progress` reports it
    watched.loop.advance(10.0)
    assert before + 1 == len(watched.told) and watched.told[-1] > last


def test_by_default_ranks_count_once_one_has_a_process_group(
    sleeper: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(tmp_path, sleeper, monkeypatch, always=False)
    watched.loop.advance(500.0)
    assert [] == watched.told


PROMPTS = ["input()", "import os; os.read(0, 1)", "import select; select.select([0], [], [])"]


@pytest.mark.parametrize("code", PROMPTS)
def test_a_prompt_is_recognized(code: str) -> None:
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        try:
            until(lambda: reads_stdin(process.pid), "it waits for its stdin")
        finally:
            process.kill()


@pytest.mark.parametrize("code", ["import time; time.sleep(600)", "import os; os.read(os.pipe()[0], 1)"])
def test_other_waits_are_no_prompt(code: str) -> None:
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        try:
            path = Path(f"/proc/{process.pid}/wchan")
            until(lambda: any(word in path.read_text() for word in ("sleep", "pipe", "select")), "it waits")
            assert not reads_stdin(process.pid)
        finally:
            process.kill()


# ---- the run --------------------------------------------------------------------------------------------------------


class Controller:
    """A controller of two nodes with a rank each; it records the requests and events."""

    def __init__(self) -> None:
        self.loop = ManualLoop()
        job = Job(Program("command", ("true",)), "exec", "python3", "--python", "/")
        self.plan = make_plan(job, layout([(Host("n1"), 1), (Host("n2"), 1)]), "20261127-000000-abcdef")
        self.supervisor = running(on_hang=OnHang.WARN, nodes=2)
        self.links = [AgentConnection(node, f"n{node + 1}", Channel(0, 1)) for node in range(2)]
        self.asked: list[int] = []
        self.kept: list[Snapshot] = []
        self.events: list[Event] = []
        self.snapshots = Snapshots(self)
        self.hangs = Hangs(self, 10.0)
        self.hangs.begin()

    def now(self) -> float:
        return self.loop.time()

    def broadcast(self, kind: str, **fields: Any) -> None:
        self.asked.append(fields["number"])

    def keep_snapshot(self, snapshot: Snapshot) -> None:
        self.kept.append(snapshot)

    def handle(self, event: Event) -> None:
        self.events.append(event)

    def answer(self, stacks: str = "") -> None:
        """Answer the last request for both nodes."""
        for node in range(2):
            fields = {"rank": node, "node": node, "stacks": stacks}
            self.snapshots.answered(self.asked[-1], node, [fields], (), 0.0)


def running(**more: Any) -> Supervisor:
    supervisor = Supervisor(
        SupervisorConfig(ranks=(0, 1), node_of=(0, more.get("nodes", 1) - 1), grace=10.0, **{"nodes": 1, **more})
    )
    events: list[Event] = [Configured(0.0), *(AgentReady(0.0, node) for node in range(supervisor.settings.nodes))]
    for event in (*events, StoreOpened(0.0, 0, 29500)):
        supervisor.handle(event)
    return supervisor


def test_a_run_hangs_when_all_nodes_are_idle() -> None:
    controller = Controller()
    start = controller.now()
    controller.loop.advance(12.0)
    controller.hangs.idle(controller.links[0], 0, start)
    assert [] == controller.asked, "the other node has said nothing"
    controller.hangs.idle(controller.links[1], 0, start + 5.0)
    assert [] == controller.asked, "it has made progress 7 seconds ago"
    controller.loop.advance(4.0)
    controller.hangs.idle(controller.links[1], 0, start + 5.0)
    controller.hangs.idle(controller.links[0], 0, start)
    assert [1] == controller.asked, "once"
    controller.answer()
    (event,) = controller.events
    assert isinstance(event, HangDetected) and 11.0 == pytest.approx(event.seconds) and event.verdict
    assert [SnapshotReason.HANG] == [snapshot.reason for snapshot in controller.kept]
    controller.hangs.idle(controller.links[1], 0, start + 20.0)
    controller.loop.advance(20.0)
    controller.hangs.idle(controller.links[0], 0, start)
    assert [1, 2] == controller.asked, "there was progress, and it hangs again"


def test_a_node_that_is_lost_is_not_waited_for() -> None:
    controller = Controller()
    controller.links[1].open = False
    controller.loop.advance(12.0)
    controller.hangs.idle(controller.links[0], 0, 0.0)
    assert [1] == controller.asked


def test_reports_about_an_earlier_attempt_are_ignored() -> None:
    controller = Controller()
    controller.loop.advance(12.0)
    for link in controller.links:
        controller.hangs.idle(link, 1, 0.0)
    assert [] == controller.asked


DEBUGGED = """Current thread 0x00007fd982863b80 (most recent call first):
  File "/usr/lib/python3.11/pdb.py", line 341 in user_line
  File "/usr/lib/python3.11/bdb.py", line 90 in trace_dispatch
  File "/home/ann/train.py", line 5 in <module>
"""


def test_a_debugger_is_no_hang() -> None:
    controller = Controller()
    controller.loop.advance(12.0)
    for link in controller.links:
        controller.hangs.idle(link, 0, 0.0)
    controller.answer(DEBUGGED)
    assert [] == controller.events


VERDICT = ("rank 1 has not entered all_reduce #4", "  rank 1  sleeps")
HANG = HangDetected(400.0, 0, 300.0, VERDICT)


def test_a_hang_is_recorded_and_read_again() -> None:
    record = json.loads(json.dumps({"event": "hang", **fields_of(HANG)}))
    assert HANG == event_from_json(record)


def test_a_warning_changes_nothing() -> None:
    supervisor = running(on_hang=OnHang.WARN)
    assert [Hanging(300.0, VERDICT, OnHang.WARN)] == supervisor.handle(HANG)
    assert (0, 1) == supervisor.alive()
    assert [] == supervisor.handle(HangDetected(400.0, 1, 300.0)), "of another attempt"


def test_the_run_is_killed() -> None:
    supervisor = running(on_hang=OnHang.KILL)
    actions = supervisor.handle(HANG)
    assert SignalRanks(SIGTERM, (0, 1)) in actions
    words = "warning: no rank has made progress for 5m; terminating the run\n" + "\n".join(VERDICT[1:])
    assert words == notice_in_words(actions[0])  # type: ignore[arg-type]


def end(supervisor: Supervisor) -> list[Any]:
    """Let both ranks exit, and the node be cleaned up."""
    actions: list[Any] = []
    for event in (RankExited(401.0, 0, 0, None, SIGTERM), RankExited(401.0, 1, 0, None, SIGTERM), CleanedUp(402.0, 0)):
        actions += supervisor.handle(event)
    return actions


@pytest.mark.parametrize(("how", "state"), [(OnHang.KILL, "timed out"), (OnHang.RESTART, "failed")])
def test_the_result_of_a_run_that_hung(how: OnHang, state: str) -> None:
    supervisor = running(on_hang=how)
    supervisor.handle(HANG)
    (finish,) = [action for action in end(supervisor) if isinstance(action, Finish)]
    assert (state, 124) == (finish.outcome.state, finish.outcome.code)
    why = "no rank made progress for 5m (--hang-timeout): rank 1 has not entered all_reduce #4"
    assert why == reason_in_words(finish.outcome.stopped)


def test_a_restart_after_a_hang() -> None:
    supervisor = running(on_hang=OnHang.RESTART, max_restarts=1)
    supervisor.handle(HANG)
    (again,) = [action for action in end(supervisor) if isinstance(action, Restarting)]
    assert "no rank made progress for 5m" in notice_in_words(again)
    assert "restarting all ranks (restart 1 of 1)" in notice_in_words(again)
