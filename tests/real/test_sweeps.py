"""Sweeps and chains on this machine: points run some at a time, and each is a run of its own."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, Callable

from conftest import Muster
from waiting import until

POINT = """
import os, sys, time
print("point", os.environ["MUSTER_POINT"], "of", os.environ["MUSTER_POINTS"], os.environ["MUSTER_POINT_VALUES"])
print("loss", int(sys.argv[1]) * 10, flush=True)
while os.path.exists("hold"):
    time.sleep(0.05)
sys.exit(5 if sys.argv[1] == "2" and not os.path.exists("mended") else 0)
"""

BY_EXEC = ("--launcher", "exec", "-g", "1")


def shown(muster: Muster, which: str = "last") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(muster("show", which, "--json").stdout)
    return found


def states(muster: Muster, which: str = "last") -> list[str]:
    return [point["state"] for point in shown(muster, which)["points"]]


def test_points_run_one_after_the_other_and_a_failure_stops_none(
    muster: Muster, script: Callable[..., Path], tmp_path: Path
) -> None:
    script(POINT)
    done = muster("run", *BY_EXEC, "--name", "a", "--sweep", "x=1-3", "script.py", "{x}", "{y}")
    assert 5 == done.returncode, done.stderr
    assert "point 1 of 3 (x=2): failed" in done.stderr and "2 ok, 1 failed" in done.stderr
    assert '[0] point 2 of 3 {"x": "3"}' in done.stdout
    (row,) = muster("ps").stdout.splitlines()[1:]
    assert "2 ok, 1 failed" in row and "3 points" in row
    assert ["10", "20", "30"] == [point["metrics"]["loss"] for point in shown(muster)["points"]]
    assert "==> 1: x=2 <==" in muster("logs", "a").stdout
    assert "point 2 of 3" in muster("logs", "last.2").stdout
    assert 5 == muster("wait", "a").returncode
    table = muster("show", "a", "--metric", "loss").stdout.splitlines()
    assert [line.split()[0] for line in table if line[:1].isdigit()] == ["0", "1", "2"]

    (tmp_path / "mended").touch()
    done = muster("run", "--resubmit", "failed", "a", cwd=tmp_path.parent)
    assert 0 == done.returncode, done.stderr
    assert ["succeeded"] * 3 == states(muster)
    assert 0 == muster("rm", "a").returncode
    assert [] == list((muster.home / "runs").iterdir())


def test_a_detached_one_is_ended_as_a_whole(muster: Muster, script: Callable[..., Path], tmp_path: Path) -> None:
    script(POINT)
    (tmp_path / "hold").touch()
    options = ("--sweep", "x=1-3", "--max-parallel", "2", "--name", "a")
    assert 0 == muster("run", "-d", *BY_EXEC, *options, "script.py", "{x}").returncode
    until(lambda: states(muster) == ["running", "running", "pending"], "two points run")
    assert 124 == muster("wait", "a", "--timeout", "0").returncode
    assert 0 == muster("kill", "a").returncode
    assert ["killed", "killed", "not started"] == states(muster)


def test_a_signal_ends_the_points_that_run_and_starts_no_other(
    muster: Muster, script: Callable[..., Path], tmp_path: Path
) -> None:
    script(POINT)
    (tmp_path / "hold").touch()
    process = muster.start("run", *BY_EXEC, "--sweep", "x=1-2", "script.py", "{x}")
    until(lambda: (muster.home / "runs").exists() and muster("logs", "last.0").stdout, "the first point runs")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert 143 == process.returncode
    assert "not started" == states(muster)[1] and states(muster)[0] != "running"
