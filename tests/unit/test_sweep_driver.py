"""The process that starts the points of a sweep, where the directory of the sweep cannot be written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from muster import api
from muster.cli.sweep_run import _in_background
from muster.core.results import SIGINT, RunResult, RunState
from muster.core.sweep import Point, Sweep
from muster.errors import ControlError
from muster.rundir.run import Run
from muster.runner.handle import RunHandle
from muster.sweep_driver import drive


class Stoppable(RunHandle):
    """A run that ends when it gets a signal; with `code`, it has ended already."""

    def __init__(self, run: Run, code: int | None) -> None:
        super().__init__(run)
        if code is not None:
            self.outcome = RunResult(RunState.FAILED, code, 1.0)
            self._over.set()

    def stop(self, number: int = 15) -> None:
        """End."""
        self._over.set()


def driven(folder: Path, monkeypatch: pytest.MonkeyPatch, signal: int, code: int | None, chain: bool) -> list[int]:
    """Return which points were started in a directory that does not exist: no file can be made there."""
    run, started = Run(folder / "no"), list[int]()
    monkeypatch.setattr(api, "start", lambda point: Stoppable(run, code))
    point: Any = SimpleNamespace(_replace=lambda **_: point)
    sweep = Sweep(tuple(map(Point, range(3))), 1, chain=chain)
    context: Any = SimpleNamespace(points=dict.fromkeys(range(3), point), sweep=sweep, base=None)
    drive(context, run, started.append, lambda number: None, lambda: signal if started else 0)
    return started


def test_ctrl_c_reaches_the_points_of_a_sweep_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [0] == driven(tmp_path, monkeypatch, SIGINT, None, False)


def test_a_chain_on_a_full_disk_ends_with_the_part_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [0] == driven(tmp_path, monkeypatch, 0, 1, True)


def test_a_process_in_the_background_that_cannot_begin_is_an_error(tmp_path: Path) -> None:
    """The command printed the id of a sweep, and succeeded."""
    context: Any = SimpleNamespace()
    with pytest.raises(ControlError, match="could not be started in the background"):
        _in_background(context, Run(tmp_path / "no"), {}, [])
