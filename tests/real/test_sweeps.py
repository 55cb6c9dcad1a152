"""Sweeps and chains on this machine: points run some at a time, and each is a run of its own."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, Callable

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


def shown(muster: Any, which: str = "last") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(muster("show", which, "--json").stdout)
    return found


def states(muster: Any, which: str = "last") -> list[str]:
    return [point["state"] for point in shown(muster, which)["points"]]


def test_points_run_one_after_the_other_and_a_failure_stops_none(
    muster: Any, script: Callable[..., Path], tmp_path: Path
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


def test_a_detached_one_is_ended_as_a_whole(muster: Any, script: Callable[..., Path], tmp_path: Path) -> None:
    script(POINT)
    (tmp_path / "hold").touch()
    options = ("--sweep", "x=1-3", "--max-parallel", "2", "--name", "a")
    assert 0 == muster("run", "-d", *BY_EXEC, *options, "script.py", "{x}").returncode
    until(lambda: states(muster) == ["running", "running", "pending"], "two points run")
    assert 124 == muster("wait", "a", "--timeout", "0").returncode
    assert 0 == muster("kill", "a").returncode
    assert ["killed", "killed", "not started"] == states(muster)


def test_a_sweep_is_watched_as_a_whole(muster: Any, script: Callable[..., Path], tmp_path: Path) -> None:
    script(POINT)
    (tmp_path / "hold").touch()
    options = ("--sweep", "x=1-3", "--max-parallel", "2", "--name", "a")
    assert 0 == muster("run", "-d", *BY_EXEC, *options, "script.py", "{x}").returncode
    until(lambda: states(muster) == ["running", "running", "pending"], "two points run")
    watching, pages = [], [tmp_path / "attached", tmp_path / "followed"]
    for page, words in zip(pages, (("attach",), ("logs", "-f"))):
        with open(page, "w") as file:
            watching.append(muster.start(*words, "a", stdout=file, stderr=file))
    until(lambda: all("[1.0] loss 20" in page.read_text() for page in pages), "both show two points")
    table = muster("top", "a").stdout.splitlines()
    assert "2 running, 1 pending" in table[0] and ["1", "2", "running"] == table[4].split()[:3]
    (tmp_path / "hold").unlink()
    for process, page, code in zip(watching, pages, (5, 0)):
        assert code == process.wait(timeout=120), page.read_text()
        told = page.read_text()
        assert {"[0.0] loss 10", "[1.0] loss 20", "[2.0] loss 30"} <= set(told.splitlines())
        assert "point 1 of 3 (x=2): failed" in told and "2 ok, 1 failed" in told
    assert 5 == muster("top", "a").returncode and 5 == muster("attach", "a").returncode


def test_a_signal_ends_the_points_that_run_and_starts_no_other(
    muster: Any, script: Callable[..., Path], tmp_path: Path
) -> None:
    script(POINT)
    (tmp_path / "hold").touch()
    process = muster.start("run", *BY_EXEC, "--sweep", "x=1-2", "script.py", "{x}")
    until(lambda: (muster.home / "runs").exists() and muster("logs", "last.0").stdout, "the first point runs")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert 143 == process.returncode
    assert "not started" == states(muster)[1] and states(muster)[0] != "running"


PART = """
import os, sys, time
print("part", os.environ["MUSTER_PART"], "of", os.environ["MUSTER_PARTS"], flush=True)
if os.environ["MUSTER_PART"] in sys.argv[1]:
    sys.exit(6)
if os.environ["MUSTER_PART"] in sys.argv[2]:
    time.sleep(600)
"""


def test_a_chain_goes_on_after_a_time_limit_and_ends_with_a_failure(muster: Any, script: Callable[..., Path]) -> None:
    script(PART)
    done = muster("run", *BY_EXEC, "--timeout", "10s", "--chain", "2", "script.py", "none", "0")
    assert 0 == done.returncode, done.stderr
    assert ["timed out", "succeeded"] == states(muster)
    done = muster("run", *BY_EXEC, "--chain", "3", "script.py", "1", "none")
    assert 6 == done.returncode, done.stderr
    assert ["succeeded", "failed", "not started"] == states(muster)
    assert "1 ok, 1 failed, 1 not started" in muster("ps").stdout


def test_a_run_starts_after_another_one(muster: Any, script: Callable[..., Path], tmp_path: Path) -> None:
    script(POINT)
    (tmp_path / "hold").touch()
    assert 0 == muster("run", "-d", *BY_EXEC, "--name", "a", "--sweep", "x=1", "script.py", "{x}").returncode
    later = ("run", "-d", *BY_EXEC, "--name", "b", "--after", "a", "--", "echo", "later")
    assert 0 == muster(*later).returncode
    assert ["pending"] == states(muster, "b")
    never = muster("run", "-d", *BY_EXEC, "--name", "never", "--after", "a:failed", "--", "true")
    assert 0 == never.returncode and "1 part in the background; follow it: muster wait" in never.stderr
    (tmp_path / "hold").unlink()
    assert 0 == muster("wait", "b", "--timeout", "240").returncode
    assert "later" in muster("logs", "b").stdout
    waited = muster("wait", "never", "--timeout", "240")
    assert 125 == waited.returncode and "not started: --after" in waited.stdout and "has succeeded" in waited.stdout
    assert "has succeeded" in muster("show", "never").stdout
    refused = muster("run", *BY_EXEC, "--after", "a:failed", "--", "true")
    assert 125 == refused.returncode and "that run has succeeded" in refused.stderr
    assert 2 == muster("run", "--after", "a:perhaps", "--", "true").returncode
