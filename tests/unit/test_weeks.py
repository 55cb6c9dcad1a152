"""A run of two weeks on a clock that the test advances: nothing of the controller grows while nothing happens."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_detached_controller import Controller

from muster.controller.held import HeldRuns
from muster.core.supervisor import Phase

WEEK = 7 * 86400.0


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    made = Controller(tmp_path)
    yield made
    made.close()


def sizes(controller: Controller) -> tuple[int, int, int]:
    """Return how many events are in memory and in the file, and how many timers are set."""
    path, loop = controller.run.path / "events.jsonl", controller.loop
    records = len(controller.served.records)

    def written() -> int:
        return path.read_bytes().count(b"\n") if path.exists() else 0

    loop.until(lambda: written() >= records, "a thread has written all events")
    return records, written(), len(loop._timers)


def passes(controller: Controller, seconds: float) -> None:
    """Let time pass in steps of a minute, with agents that get and acknowledge what is sent, and answer nothing."""
    for _ in range(round(seconds / 600)):
        controller.loop.advance(600.0, 60.0)
        for agent in controller.agents:
            agent.hear()
            agent.said.clear()
            agent.wire.flush()
    controller.loop.run_once(0)


def test_a_run_of_two_weeks_keeps_nothing_for_each_second(controller: Controller) -> None:
    controller.running()
    passes(controller, 3600.0)
    before = sizes(controller)
    tracemalloc.start()
    passes(controller, 86400.0)
    began, _ = tracemalloc.get_traced_memory()
    passes(controller, 2 * WEEK)
    ended, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert controller.served.supervisor.phase is Phase.RUNNING
    assert before == sizes(controller)
    assert ended - began < 10_000


def test_a_session_that_is_held_for_two_weeks_stays_small(controller: Controller) -> None:
    held = HeldRuns(controller.served, 0.0)
    for node in range(2):
        controller.connect(node).say("ready", fork=False, why="")
    controller.loop.until(lambda: held.ready, "all are ready")
    passes(controller, 3600.0)
    timers = len(controller.loop._timers)
    passes(controller, 2 * WEEK)
    idle = held.state()["idle"]
    assert idle is not None and idle > 2 * WEEK - 60, "it ends by --idle only"
    assert timers == len(controller.loop._timers)


def test_an_idle_session_ends_on_time_however_long_that_is(controller: Controller) -> None:
    held = HeldRuns(controller.served, WEEK)
    for node in range(2):
        controller.connect(node).say("ready", fork=False, why="")
    controller.loop.until(lambda: held.ready, "all are ready")
    passes(controller, WEEK - 600)
    assert held.world.supervisor.phase is Phase.STARTING
    passes(controller, 1200.0)
    assert held.world.supervisor.phase is not Phase.STARTING
