"""A run without progress is reported, and ended if asked; slow work and a debugger are not taken for a hang."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Callable

import pytest
from running import RunProcesses
from waiting import until

from muster.core.inspection import SnapshotReason
from muster.rundir.run import Run
from muster.rundir.snapshots import snapshots

Script = Callable[..., Path]

WARNED = "no rank has made progress for"

HANGS = """
import os, time, torch, torch.distributed as dist
dist.init_process_group("gloo")
dist.barrier()
print("ready", flush=True)

def hold():
    while not os.path.exists("go"):
        time.sleep(0.2)

if dist.get_rank() == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    hold()
dist.all_reduce(torch.zeros(8))
print("done", flush=True)
dist.destroy_process_group()
"""


def test_a_hang_is_reported_and_the_run_goes_on(muster: Any, script: Script, tmp_path: Path) -> None:
    with RunProcesses(muster, "run", "-g", "3", "--hang-timeout", "3", str(script(HANGS))) as run:
        run.wrote("ready", range(3))
        (hang,) = until(lambda: run.events("hang"), "the hang is reported")
        assert 3 <= hang["seconds"]
        assert "rank 1 has not entered all_reduce" in hang["verdict"][0] and "hold" in "".join(hang["verdict"])
        (tmp_path / "go").touch()
        status, _, err = run.end()
        assert 0 == status
        assert 1 == err.count(WARNED) and hang["verdict"][0] in err
        (found,) = snapshots(Run(run.path), 0)
        assert SnapshotReason.HANG is found.reason and [0, 1, 2] == [one.rank for one in found.inspections]


def test_a_hang_ends_the_run(muster: Any, script: Script) -> None:
    with RunProcesses(muster, "run", "-g", "2", "--hang-timeout", "3", "--on-hang", "kill", str(script(HANGS))) as run:
        status, _, err = run.end(120)
        assert 124 == status
        assert "\nmuster: rank 1 has not entered all_reduce" in err and "(--hang-timeout)\n" in err
        outcome = run.outcome()
        assert ("timed out", "hang") == (outcome["state"], outcome["stopped"]["kind"])


def test_a_hang_restarts_the_ranks(muster: Any, script: Script) -> None:
    words = ("--hang-timeout", "3", "--on-hang", "restart", "--max-restarts", "1")
    with RunProcesses(muster, "run", "-g", "2", *words, str(script(HANGS))) as run:
        status, _, err = run.end(120)
        assert (0, 1) == (status, err.count("restarting all ranks (restart 1 of 1)"))
        assert "done" in run.log(1, attempt=1)


IN_CHILD = 'subprocess.run(["sh", "-c", "while [ ! -e go ]; do :; done"])'
ON_ITS_OWN = 'while not os.path.exists("go"): sum(range(10000))'
SLOW = """
import os, subprocess, sys, time, torch, torch.distributed as dist
dist.init_process_group("gloo")
dist.barrier()
print("ready", flush=True)
if dist.get_rank() == 1:
    {work}
dist.barrier()
print("done", flush=True)
"""


@pytest.mark.parametrize(
    "work", [pytest.param(IN_CHILD, id="a_compiler"), pytest.param(ON_ITS_OWN, id="an_evaluation")]
)
def test_work_of_one_rank_is_no_hang(muster: Any, script: Script, tmp_path: Path, work: str) -> None:
    """The other one waits for it in a barrier."""
    path = str(script(SLOW.replace("{work}", work)))
    with RunProcesses(muster, "run", "-g", "2", "--hang-timeout", "5", path) as run:
        run.wrote("ready", range(2))
        with subprocess.Popen(["sleep", "15"]) as watch:
            until(lambda: watch.poll() is not None or run.events("hang"), "three times as long")
        assert [] == run.events("hang")
        (tmp_path / "go").touch()
        status, _, err = run.end()
        assert (0, False) == (status, WARNED in err)


PROMPT = """
import torch.distributed as dist
dist.init_process_group("gloo")
print("ready", flush=True)
breakpoint()
print("done", flush=True)
"""


def test_a_breakpoint_is_no_hang(muster: Any, script: Script) -> None:
    path = str(script(PROMPT))
    words = ("run", "-g", "1", "--hang-timeout", "4", path)
    with RunProcesses(muster, *words, stdin=subprocess.PIPE) as run:
        run.wrote("ready")
        with subprocess.Popen(["sleep", "12"]) as watch:
            until(lambda: watch.poll() is not None or run.events("hang"), "three times as long")
        assert [] == run.events("hang")
        run.process.stdin.write("c\n")
        run.process.stdin.flush()
        status, _, err = run.end()
        assert (0, False) == (status, WARNED in err)


SPINS = """
import time, torch, torch.distributed as dist
dist.init_process_group("gloo")
dist.barrier()
print("ready", flush=True)
if dist.get_rank() == 1:
    time.sleep(1000)
work = dist.all_reduce(torch.zeros(8), async_op=True)
while not work.is_completed():
    pass
"""


def test_ranks_that_spin_in_a_collective_hang(muster: Any, script: Script) -> None:
    """As NCCL does: their CPU time is no progress. Rank 1 waits for something else, without any CPU time."""
    with RunProcesses(muster, "run", "-g", "2", "--hang-timeout", "3", "--on-hang", "kill", str(script(SPINS))) as run:
        assert 124 == run.end(120)[0]
