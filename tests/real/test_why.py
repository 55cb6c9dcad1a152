"""`muster why`: which rank keeps the others waiting, while a run hangs and after its end."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any, Callable

import pytest
from running import RunProcesses
from waiting import until

Script = Callable[..., Path]

HANGS = """
import os, time
import torch, torch.distributed as dist

def read_shard():
    os.read(os.pipe()[0], 1)

dist.init_process_group("gloo")
for step in range(5):
    dist.all_reduce(torch.ones(8))
print("ready", flush=True)
if dist.get_rank() == 1:
    read_shard()
dist.all_reduce(torch.ones(16))
"""


TRAINS = """
import os, time
import torch, torch.distributed as dist

dist.init_process_group("gloo")
print("ready", flush=True)
while True:
    dist.all_reduce(torch.ones(8))
    time.sleep(0.02)
"""


@pytest.mark.parametrize("launcher", ["fork", "exec", "torchrun"])
def test_the_rank_that_has_not_come_is_named(muster: Any, script: Script, launcher: str) -> None:
    path = str(script(HANGS, "hangs.py"))
    with RunProcesses(muster, "run", "-g", "3", "--launcher", launcher, path) as run:
        run.wrote("ready", range(3))
        sentence = until(lambda: _verdict(muster, "ranks 0,2 have waited there for "), "it is seen")
        assert sentence.startswith("rank 1 has not entered all_reduce #6 (float32 [16], hangs.py:")
        assert "Rank 1 is in read_shard (hangs.py:6), blocked in read() of a pipe." in sentence
        told = json.loads(muster("why", "last", "--json").stdout)
        assert (run.id, True, sentence[:20]) == (told["run"], True, told["sentence"][:20])
        assert ("missing", [1], [0, 2]) == tuple(told["verdict"][key] for key in ("kind", "odd", "waiting"))
        assert {"1": {"stdout": "ready"}} == told["last_output"]
        stacks = muster("stacks", "last").stdout
        assert ["ranks 0,2 (waiting in all_reduce #6 for", "rank 1 (blocked in read() of a pipe):"] == [
            line.partition(" for ")[0] + (" for" if " for " in line else "")
            for line in stacks.splitlines()
            if line.startswith("rank")
        ]
        assert 1 == stacks.count("in all_reduce\n")
        assert 0 == muster("kill", "last").returncode
        run.end()
    late = muster("why", "last").stdout
    assert late.startswith("rank 1 has not entered all_reduce #6")
    assert "before the ranks were terminated" in late
    assert "last line of rank 1 on stdout: ready" in late
    assert "the run ended: stopped after" in late
    after = muster("stacks", "last")
    assert (0, True) == (after.returncode, "in read_shard" in after.stdout)
    assert "has ended; stacks as of" in after.stderr


def _verdict(muster: Any, words: str) -> str:
    """Return the first line of `muster why` if it has these words."""
    done = muster("why", "last")
    assert 0 == done.returncode, done.stderr
    first: str = done.stdout.partition("\n")[0]
    return first if words in first else ""


def test_a_run_that_makes_progress_and_a_stopped_rank(muster: Any, script: Script) -> None:
    with RunProcesses(muster, "run", "-g", "2", str(script(TRAINS))) as run:
        run.wrote("ready", range(2))
        until(lambda: _verdict(muster, "the ranks make progress"), "they train")
        os.kill(run.ranks()[1], signal.SIGSTOP)
        assert until(lambda: _verdict(muster, "Rank 1 is stopped by a signal (SIGSTOP)."), "it is seen")
        os.kill(run.ranks()[1], signal.SIGCONT)
        until(lambda: _verdict(muster, "the ranks make progress"), "they train again")
        assert 0 == muster("kill", "last").returncode
        run.end()


def test_ranks_without_torch(muster: Any, tmp_path: Path) -> None:
    with RunProcesses(muster, "run", "-g", "2", "--", "sh", "-c", "echo ready; exec sleep 1000") as run:
        run.wrote("ready", range(2))
        until(lambda: "ranks 0-1  sleeping" in muster("why").stdout, "both sleep")
        done = muster("why")
        assert (0, "no rank waits for another, as far as can be seen.") == (
            done.returncode,
            done.stdout.splitlines()[0],
        ), done.stderr
        assert "ranks 0-1  sleeping" in done.stdout
        assert 0 == muster("kill", "last").returncode
        run.end()


def test_a_run_without_a_record(muster: Any) -> None:
    assert 0 == muster("run", "--", "true").returncode
    done = muster("why")
    assert (2, True) == (done.returncode, "has no running ranks, and no record of what they did" in done.stderr)
