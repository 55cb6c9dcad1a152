"""Every rank can be asked what it is doing, by each launcher, and neither its log nor its threads show it."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable

import pytest
from running import RunProcesses
from waiting import until

from muster.agent.stacks import StackRequest
from muster.client.inspection import collective_times, inspect
from muster.core.inspection import Inspection, Snapshot, SnapshotReason
from muster.errors import MusterError
from muster.linux.processes import STACKS_SIGNAL
from muster.protocol.paths import rank_file
from muster.rundir.run import Run
from muster.rundir.snapshots import last_snapshot, snapshots

Script = Callable[..., Path]

LAUNCHERS = ("fork", "exec", "torchrun")

LATE = """
import os, sys, threading, time, torch, torch.distributed as dist
rank = int(os.environ["RANK"])
dist.init_process_group("gloo")
dist.barrier()
x = torch.zeros(8)
for _ in range(3):
    dist.all_reduce(x)

def hold():
    while not os.path.exists("go"):
        time.sleep(0.02)

print("ready", len(threading.enumerate()), file=sys.stderr, flush=True)
print("ready", flush=True)
if rank == 1:
    hold()
dist.all_reduce(x)
print("done", flush=True)
dist.destroy_process_group()
"""


def by_rank(snapshot: Snapshot) -> Mapping[int, Inspection]:
    return {found.rank: found for found in snapshot.inspections}


def waiting(run: RunProcesses, op: str, ranks: set[int], pending: set[int]) -> Mapping[int, Inspection]:
    """Inspect the run until the `pending` ones of these ranks wait in this collective."""

    def look() -> Mapping[int, Inspection] | None:
        found = by_rank(inspect(Run(run.path)))
        there = {rank for rank, one in found.items() if one.collectives and not one.collectives[-1].done}
        return found if set(found) == ranks and there == pending and all(one.stacks for one in found.values()) else None

    found: Mapping[int, Inspection] = until(look, f"{pending} wait in {op}")
    assert {op} == {found[rank].collectives[-1].op for rank in pending}
    return found


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_rank_that_did_not_come_is_seen_and_nothing_is_seen_by_the_ranks(
    muster: Any, script: Script, tmp_path: Path, launcher: str
) -> None:
    with RunProcesses(muster, "run", "-g", "3", "--launcher", launcher, str(script(LATE))) as run:
        run.wrote("ready", range(3))
        found = waiting(run, "all_reduce", {0, 1, 2}, {0, 2})
        for rank in range(3):
            (group,) = [group for group in found[rank].groups if group.group == "0"]
            assert found[rank].recorder and "default_pg" == group.description
            assert (3 + (rank != 1) + 1, 4) == (group.enqueued, group.completed)
            last = found[rank].collectives[-1]
            assert ((8,),) == last.sizes and ("Float",) == last.dtypes and abs(last.created - time.time()) < 120
            assert "in <module>" in found[rank].stacks and ("in hold" in found[rank].stacks) == (rank == 1)
            main = found[rank].threads[0]
            assert main.pid == found[rank].pid and main.cpu >= 0
        assert "futex" == found[0].threads[0].call
        times = collective_times(Run(run.path))
        assert {0: 5, 1: 4, 2: 5} == {one.rank: len(one.seqs) for one in times.times if one.group == "0"}
        (tmp_path / "go").touch()
        assert 0 == run.end()[0]
        for rank in range(3):
            assert "ready 1\n" == run.log(rank, "err"), "the server writes nothing"
            assert "ready\ndone\n" == run.log(rank)


IN_STORE = """
import os, time, torch, torch.distributed as dist
rank = int(os.environ["RANK"])
print("ready", flush=True)
if rank == 1:
    while not os.path.exists("go"):
        time.sleep(0.02)
dist.init_process_group("gloo")
dist.barrier()
print("done", flush=True)
"""


def test_a_rank_that_waits_for_others_to_initialize(muster: Any, script: Script, tmp_path: Path) -> None:
    with RunProcesses(muster, "run", "-g", "2", str(script(IN_STORE))) as run:
        run.wrote("ready", range(2))

        def look() -> bool:
            found = by_rank(inspect(Run(run.path)))
            return "init_process_group" in found[0].stacks and bool(found[0].waits)

        until(look, "rank 0 waits in the store")
        (tmp_path / "go").touch()
        assert 0 == run.end()[0]
        assert ["", ""] == [run.log(rank, "err") for rank in range(2)]


BACK_OFF = """
import os, sys, socket, time
from datetime import timedelta
import torch.distributed as dist
rank = int(os.environ["RANK"])
with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    port = taken.getsockname()[1]
print("ready", flush=True)
os.environ["MASTER_PORT"] = str(port)
try:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=1, world_size=2,
                            timeout=timedelta(seconds=6))
except Exception as error:
    print("failed", type(error).__name__, flush=True)
"""


def kinds(text: str) -> set[str]:
    """Return the lines of torch, without numbers. How often it tries again depends on chance: its pauses are random."""
    lines = (re.sub("0x[0-9a-f]+|[0-9]+", "N", line) for line in text.splitlines())
    return {line for line in lines if " - retrying (" not in line}


def test_stacks_do_not_disturb_a_rank_that_tries_to_connect(muster: Any, script: Script) -> None:
    """The sleep between two attempts of a TCPStore throws an exception when a signal ends it."""
    path = str(script(BACK_OFF))
    words = ("run", "-g", "1", "--launcher", "exec", path)
    with RunProcesses(muster, *words) as alone, RunProcesses(muster, *words) as run:
        run.wrote("ready")
        seen = 0
        while "failed" not in run.log(0) and run.process.poll() is None:
            with suppress(MusterError):  # it has just ended
                seen += any("init_process_group" in one.stacks for one in inspect(Run(run.path)).inspections)
        assert 0 == run.end()[0]
        assert seen > 0
        assert "Interrupted" not in run.log(0, "err")
        alone.wrote("failed")
        assert 0 == alone.end()[0]
        assert kinds(run.log(0, "err")) <= kinds(alone.log(0, "err"))


NO_TORCH = "import time; print('ready', flush=True); time.sleep(1000)"


def test_a_stopped_rank_holds_up_nobody(muster: Any, script: Script) -> None:
    path = str(script(NO_TORCH))
    with RunProcesses(muster, "run", "-g", "2", "--launcher", "exec", path) as run:
        run.wrote("ready", range(2))
        stopped = run.ranks()[1]
        os.kill(stopped, signal.SIGSTOP)
        until(lambda: "T" == Path(f"/proc/{stopped}/stat").read_text().rpartition(")")[2].split()[0], "it is stopped")
        found = until(
            lambda: (seen := by_rank(inspect(Run(run.path)))) and "script.py" in seen[0].stacks and seen, "rank 0 tells"
        )
        assert "" == found[1].stacks
        assert "T" == found[1].threads[0].state
        os.kill(stopped, signal.SIGCONT)
        run.process.send_signal(signal.SIGTERM)
        assert 143 == run.end()[0]


def test_a_rank_that_is_no_python(muster: Any) -> None:
    with RunProcesses(muster, "run", "-g", "1", "--", "sh", "-c", "echo ready; sleep 1000 & read x < /dev/zero") as run:
        run.wrote("ready")
        until(lambda: by_rank(inspect(Run(run.path)))[0].children, "its child is seen")
        found = by_rank(inspect(Run(run.path)))[0]
        assert ("", False) == (found.stacks, found.recorder)
        assert ["sleep"] == [child.name for child in found.children]
        run.process.send_signal(signal.SIGTERM)
        assert 143 == run.end()[0]


FAILS = LATE.replace(
    "    hold()\ndist.all_reduce(x)", "    hold()\n    raise ValueError('bad label')\ntime.sleep(1000)"
)


EXITS = f"""
import faulthandler, os
faulthandler.unregister({int(STACKS_SIGNAL)})
os.kill(os.getpid(), {int(STACKS_SIGNAL)})
print("lives", flush=True)
"""


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_no_request_for_stacks_ends_a_rank_that_exits(muster: Any, script: Script, launcher: str) -> None:
    """The interpreter removes the handler when it exits; the request may have been on its way."""
    done = muster("run", "-g", "1", "--launcher", launcher, "--prefix", "", str(script(EXITS)))
    assert (0, "lives\n") == (done.returncode, done.stdout), done.stderr


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_what_the_others_did_is_kept_when_one_fails(muster: Any, script: Script, tmp_path: Path, launcher: str) -> None:
    with RunProcesses(muster, "run", "-g", "3", "--launcher", launcher, str(script(FAILS))) as run:
        run.wrote("ready", range(3))
        (tmp_path / "go").touch()
        assert 1 == run.end()[0]
        found = last_snapshot(Run(run.path))
        assert found is not None and SnapshotReason.FAILURE is found.reason
        assert [0, 2] == sorted(by_rank(found))
        for one in found.inspections:
            assert "in <module>" in one.stacks and ("all_reduce", True) == (
                one.collectives[-1].op,
                one.collectives[-1].done,
            )


def test_what_ranks_did_is_kept_when_the_run_is_stopped(muster: Any, script: Script) -> None:
    with RunProcesses(muster, "run", "-g", "3", str(script(LATE))) as run:
        run.wrote("ready", range(3))
        waiting(run, "all_reduce", {0, 1, 2}, {0, 2})
        assert 0 == muster("kill", "last").returncode
        assert 137 == run.end()[0]
        (found,) = snapshots(Run(run.path), 0)
        assert SnapshotReason.STOP is found.reason and found.when > 0
        ranks = by_rank(found)
        assert {0, 1, 2} == set(ranks)
        assert [False, True, False] == [ranks[rank].collectives[-1].done for rank in range(3)]
        assert "in hold" in ranks[1].stacks
        for rank in range(3):
            # one that was still to be terminated may have said by then that it had lost its peers
            said = run.log(rank, "err")
            assert said.startswith("ready 1\n") and "most recent call first" not in said


IMPORTS = """
import importlib, os, sys, torch, torch.distributed as dist

def deep(depth):
    if depth:
        return deep(depth - 1)
    for name in ("decimal", "_pydecimal", "html.entities", "email.message", "xml.dom.minidom"):
        sys.modules.pop(name, None)
        importlib.import_module(name)

dist.init_process_group("gloo")
dist.barrier()
print("ready", flush=True)
while not os.path.exists("go"):
    deep(100)
"""


def test_stacks_of_code_that_runs_do_it_no_harm(muster: Any, script: Script, tmp_path: Path) -> None:
    """A thread that reads the frames of another one while they change crashes the process."""
    with RunProcesses(muster, "run", "-g", "2", "--launcher", "torchrun", str(script(IMPORTS))) as run:
        run.wrote("ready", range(2))
        for _ in range(100):
            for rank, pid in run.ranks().items():
                request = StackRequest(pid, rank_file(str(run.path / "attempt_0"), rank, "stack"))
                until(request.check, "it writes its stacks")
                assert "in deep" in request.text or "<module>" in request.text
        (tmp_path / "go").touch()
        code, _, err = run.end()
    assert 0 == code, err
