"""`muster show --slow` of real runs: a rank that sleeps, one that shares its core, and none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest
from running import RunProcesses
from waiting import until

from muster.core.pace import Pace
from muster.rundir.pace import write_pace
from muster.rundir.run import Run
from muster.ui.pace_text import pace_in_words

Script = Callable[..., Path]

STEPS = """
import os, sys, time, torch, torch.distributed as dist
kind, slow = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo")
rank, x = dist.get_rank(), torch.zeros(100)
if kind == "core" and rank == slow:
    os.sched_setaffinity(0, {int(sys.argv[3])})
print("ready", flush=True)
while not os.path.exists("stop"):
    time.sleep(0.01 + (0.04 if kind == "sleep" and rank == slow else 0.0))
    until = time.process_time() + 0.01
    while kind == "core" and rank == slow and time.process_time() < until:
        pass
    dist.all_reduce(x)
"""


def pace_when(muster: Any, condition: Callable[[dict[str, Any]], Any], cause: str = "") -> dict[str, Any]:
    """Wait until the pace of the last run fulfils this, with a cause of this kind, and return it with the causes."""

    def look() -> dict[str, Any] | None:
        done = muster("show", "last", "--slow", "--json")
        found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        if not found or not condition(found["pace"]):
            return None
        return found if not cause or cause in [one["kind"] for one in found["causes"][0]["causes"]] else None

    found: dict[str, Any] = until(look, "that pace", 150)
    return found


def test_a_rank_that_sleeps_is_named(muster: Any, script: Script) -> None:
    with RunProcesses(muster, "run", "-g", "3", str(script(STEPS)), "sleep", "1") as run:
        run.wrote("ready", (0, 1, 2))
        # others may be late, too, for a while, if the machine is busy
        pace_when(
            muster,
            lambda pace: (
                pace["collectives"] > 100
                and [[1]] == [slow["ranks"] for slow in pace["slow"]]
                and pace["slow"][0]["last"] > 0.8
                and 0.02 < pace["slow"][0]["behind"] < 0.4
                and pace["lost"] > 0.3
            ),
        )
        told = ("rank 1 arrived last in ", " ms behind\n", "--rank 1\n")
        until(lambda: all(word in muster("show", "last", "--slow").stdout for word in told), "it is told")


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_of_equal_pace_give_no_alarm(muster: Any, script: Script, ranks: int) -> None:
    with RunProcesses(muster, "run", "-g", str(ranks), str(script(STEPS)), "none", "0") as run:
        run.wrote("ready", range(ranks))
        pace_when(muster, lambda pace: pace["collectives"] > 300 and not pace["slow"])
        none = f"no slow rank among {ranks} ranks"
        until(lambda: none in muster("show", "last", "--slow").stdout, "it is told")  # one may be slow for a moment


def test_a_rank_that_shares_its_core_is_named_with_the_cause(muster: Any, script: Script) -> None:
    core = min(os.sched_getaffinity(0))
    # in sessions of their own, as ranks are: the kernel divides a core between sessions
    words = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(words, start_new_session=True) for _ in range(4)]
    try:
        for process in busy:
            os.sched_setaffinity(process.pid, {core})
        with RunProcesses(muster, "run", "-g", "3", str(script(STEPS)), "core", "1", str(core)) as run:
            run.wrote("ready", (0, 1, 2))
            # others may be slow for a moment, too, if the machine is busy; this one is all the time
            pace_when(
                muster,
                lambda pace: pace["collectives"] > 100 and [[1]] == [slow["ranks"] for slow in pace["slow"]],
                cause="waited",
            )
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_an_ended_run_shows_what_was_recorded(muster: Any) -> None:
    assert 0 == muster("run", "-g", "2", "--", "true").returncode
    done = muster("show", "last", "--slow")
    assert "no times of collectives were recorded" in done.stderr
    run = Run(sorted((muster.home / "runs").iterdir())[-1])
    write_pace(run, 0, Pace("0", 500, 2, 0.1, 0.01, (), 0.001))
    assert pace_in_words(Pace("0", 500, 2, 0.1, 0.01, (), 0.001)) + "\n" == muster("show", "last", "--slow").stdout


def test_a_program_without_torch_has_no_collectives(muster: Any) -> None:
    with RunProcesses(muster, "run", "-g", "2", "--", "sh", "-c", "echo ready; exec sleep 600") as run:
        run.wrote("ready", (0, 1))
        assert "no rank reports when it called its collectives" in muster("show", "last", "--slow").stdout
