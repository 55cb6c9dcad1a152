"""How long an agent waits for its ranks: a machine that stands still takes nothing from it."""

from __future__ import annotations

import pytest

from muster.agent import patience
from muster.agent.patience import Patience


class Clock:
    """The clocks of an agent: of the machine, and of its own CPU time."""

    def __init__(self) -> None:
        self.now = self.work = 100.0

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.work

    def passes(self, seconds: float, worked: float = 0.0) -> None:
        self.now += seconds
        self.work += worked


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(patience, "time", made)
    return made


def test_time_counts_while_the_agent_looks(clock: Clock) -> None:
    waits = Patience(0.5)
    for _ in range(99):
        clock.passes(0.005)
        assert not waits.over()
    clock.passes(0.02)
    assert waits.over()


def test_time_without_the_cpu_does_not_count(clock: Clock) -> None:
    """The ranks had none either."""
    waits = Patience(0.5)
    for _ in range(20):
        clock.passes(3.0)
        assert not waits.over()


def test_the_agents_own_work_counts(clock: Clock) -> None:
    """Answers of many ranks take long to read, and the end of the run waits for it."""
    waits = Patience(0.5)
    clock.passes(0.6, worked=0.55)
    assert waits.over()


def test_there_may_be_none(clock: Clock) -> None:
    assert Patience(0.0).over()
