"""The watch over the pace of the ranks: when it looks, what it records, and what it reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from manual_loop import ManualLoop
from test_stragglers import only, training

from muster.controller.pace_watch import PaceWatch
from muster.core.inspection import CollectiveTimes
from muster.core.layout import layout
from muster.core.model import Host, Job, Program
from muster.core.pace import Pace
from muster.core.supervisor import Phase
from muster.launchers import make_plan
from muster.rundir.pace import pace_from_json, read_pace, write_pace
from muster.rundir.run import Run


class World:
    """A controller whose ranks answer at once with these times."""

    def __init__(self, ranks: int = 4) -> None:
        self.loop = ManualLoop()
        job = Job(Program("command", ("true",)), "exec", "python3", "--python", "/")
        self.plan = make_plan(job, layout([(Host("n1"), ranks // 2), (Host("n2"), ranks // 2)]), "r")
        self.supervisor: Any = SimpleNamespace(attempt=0, phase=Phase.RUNNING)
        self.snapshots: Any = self
        self.answer: Sequence[CollectiveTimes] = ()
        self.ahead = (0.0, 0.0)
        self.looks: list[float] = []
        self.said: list[str] = []
        self.kept: list[tuple[int, Pace]] = []

    def times(self, then: Callable[..., object]) -> None:
        self.looks.append(self.loop.time())
        then(self.answer, (), self.ahead)

    def notify(self, text: str) -> None:
        self.said.append(text)

    def keep_pace(self, attempt: int, pace: Pace) -> None:
        self.kept.append((attempt, pace))


def watch(world: World) -> float:
    PaceWatch(world, "last").begin()
    return world.loop.time()


def test_it_looks_now_and_then() -> None:
    world = World()
    began = watch(world)
    world.loop.advance(1600.0, 1.0)
    assert [20.0, 60.0, 300.0, 900.0, 1500.0] == [round(when - began, 1) for when in world.looks]
    world.loop.close()


def test_a_rank_that_stays_slow_is_reported_once() -> None:
    world = World()
    world.answer = training(4, only(3, 0.04))
    watch(world)
    world.loop.advance(30.0, 1.0)
    assert [] == world.said, "once may be chance"
    world.loop.advance(600.0, 1.0)
    (said,) = world.said
    assert said.startswith("warning: rank 3 (n2) arrived last in 100% of 490 collectives, median 40 ms behind; see")
    assert [0, 0, 0] == [attempt for attempt, _ in world.kept]
    world.loop.close()


def test_another_slow_rank_each_time_is_not_reported() -> None:
    world = World()
    watch(world)
    for rank, seconds in ((3, 30.0), (1, 40.0), (2, 300.0)):
        world.answer = training(4, only(rank, 0.04))
        world.loop.advance(seconds, 1.0)
    assert (3, []) == (len(world.kept), world.said)
    world.loop.close()


def test_a_clock_that_is_ahead_is_no_slow_node() -> None:
    world = World()
    world.answer, world.ahead = training(4, clocks={1: 0.5}), (0.0, 0.5)
    watch(world)
    world.loop.advance(400.0, 1.0)
    assert ([], [(), (), ()]) == (world.said, [pace.slow for _, pace in world.kept])
    world.loop.close()


@pytest.mark.parametrize("change", [{"phase": Phase.TERMINATING}, {"attempt": 1}])
def test_after_the_attempt_it_does_not_look(change: dict[str, Any]) -> None:
    world = World()
    watch(world)
    vars(world.supervisor).update(change)
    world.loop.advance(1000.0, 10.0)
    assert [] == world.looks
    world.loop.close()


def test_large_runs_are_left_alone() -> None:
    world = World(ranks=256)
    watch(world)
    world.loop.advance(400.0, 10.0)
    assert [] == world.looks
    world.loop.close()


def test_what_is_written_is_read_again(tmp_path: Any) -> None:
    world = World()
    world.answer = training(4, only(3, 0.04))
    watch(world)
    world.loop.advance(30.0, 1.0)
    world.loop.close()
    run, pace = Run(tmp_path), world.kept[0][1]
    assert read_pace(run) is None
    write_pace(run, 0, pace)
    assert pace == read_pace(run)
    assert Pace() == pace_from_json({}), "a record without fields that are known"
