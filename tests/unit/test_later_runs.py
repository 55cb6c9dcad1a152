"""Runs that are started later, and stopped before that or meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from muster.core.results import SIGINT
from muster.rundir.run import Run
from muster.runner.handle import RunHandle
from muster.runner.later import LaterRun


class Started(RunHandle):
    """A run that counts the signals that it gets."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.got: list[int] = []

    def stop(self, number: int = 15) -> None:
        """Count the signal."""
        self.got.append(number)


class Interleaved:
    """A lock that another thread takes as soon as it is free."""

    def __init__(self, then: Any) -> None:
        self.then: Any = then

    def __enter__(self) -> None:
        """Take the lock."""

    def __exit__(self, *_: object) -> None:
        then, self.then = self.then, None
        if then is not None:
            then()


def test_a_stop_while_the_run_starts_is_one_signal(tmp_path: Path) -> None:
    """A second one would hurry it: ranks would be killed before they can write a checkpoint."""
    later, started = LaterRun(Run(tmp_path)), Started(Run(tmp_path))
    assert later.claim()
    lock: Any = Interleaved(lambda: later.begun(started))
    later._lock = lock
    later.stop(SIGINT)
    assert [SIGINT] == started.got


def test_a_stop_after_the_start_reaches_the_run(tmp_path: Path) -> None:
    later, started = LaterRun(Run(tmp_path)), Started(Run(tmp_path))
    assert later.claim()
    later.begun(started)
    later.stop(SIGINT)
    assert [SIGINT] == started.got


def test_a_run_that_was_stopped_before_is_not_started(tmp_path: Path) -> None:
    later = LaterRun(Run(tmp_path))
    later.stop()
    assert not later.claim()
    assert later.over
