"""Whatever process dies, nothing of a run outlives it, and its state is never reported wrongly."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable

import pytest
from running import (
    RunProcesses,
    carriers,
    children,
    command,
    family,
    living,
    no_one_left,
    outcome,
    parents,
    process,
    shared,
    temporary,
)
from waiting import until

Script = Callable[..., Path]

BUSY = """
import os, signal, subprocess, sys, time
import torch, torch.distributed as dist
from torch.utils.data import DataLoader

class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            yield torch.ones(1000)
            time.sleep(0.01)

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    dist.init_process_group("gloo")
    batches = iter(DataLoader(Endless(), batch_size=2, num_workers=1))
    next(batches)
    subprocess.Popen(["sleep", "1000"])
    subprocess.Popen(["sleep", "1001"], start_new_session=True)
    subprocess.Popen(["sleep", "1002"], env={})
    subprocess.Popen(["sleep", "1004"], env={}, start_new_session=True)
    subprocess.run("sleep 1003 & disown", shell=True, executable="/bin/bash")
    dist.barrier()
    print("ready")
    for batch in batches:
        pass
"""
"""Ranks with workers and programs of their own, in a session of their own, orphaned, or without their environment; all
ignore SIGTERM."""


def everyone(run: RunProcesses) -> set[Any]:
    """Return all processes of a busy run of two ranks, after a check that these are all that were intended."""
    found = run.everybody()
    words = [command(one.pid) for one in found]
    for seconds in ("1000", "1001", "1002", "1003", "1004"):
        assert 2 == sum(f"sleep {seconds}" in text for text in words), words
    for pid in run.ranks().values():
        assert any("busy.py" in command(child) for child in children(pid)), "each rank has a worker"
    assert {run.agent(), run.warm(), run.store(), *run.ranks().values()} <= {one.pid for one in found}
    return found


def test_killing_muster_ends_everything_and_the_run_is_told_as_lost(muster: Any, script: Script) -> None:
    with RunProcesses(muster, "run", "-g", "2", "--name", "mine", str(script(BUSY, "busy.py"))) as run:
        run.wrote("ready", range(2))
        found = everyone(run)
        run.process.kill()
        run.process.wait()
        no_one_left(found, run.id)
        listed = muster("ps").stdout
        assert ("lost" in listed, "running" in listed) == (True, False)
        shown = muster("show", "mine").stdout
        why = "connection to muster lost, and its agent terminated the ranks"
        assert f"state    lost: {why}" in shown.splitlines()
        waited = muster("wait", "mine")
        assert (125, f"{run.id} is lost: {why}\n") == (waited.returncode, waited.stderr)
        assert 0 == muster("kill", "mine").returncode
        assert 0 == muster("rm", "mine").returncode


def test_killing_the_agent_ends_everything_with_status_125(muster: Any, script: Script) -> None:
    with RunProcesses(muster, "run", "-g", "2", str(script(BUSY, "busy.py"))) as run:
        run.wrote("ready", range(2))
        found = everyone(run)
        assert 1 == len(temporary(run.id)), "the sockets of its ranks"
        os.kill(run.agent(), signal.SIGKILL)
        status, _, err = run.end()
        assert 125 == status
        assert "exited (killed by signal 9), and its ranks with it" in err
        no_one_left(found, run.id)
        assert [] == temporary(run.id)
        assert " error " in muster("ps").stdout


def test_killing_a_detached_agent_leaves_no_files(muster: Any, script: Script) -> None:
    started = muster("run", "-d", "-g", "2", "--launcher", "fork", str(script(TIDY, "tidy.py")))
    assert 0 == started.returncode, started.stderr
    (path,) = (muster.home / "runs").iterdir()
    try:
        until(lambda: "ready" in muster("logs", path.name).stdout, "the ranks are ready")
        assert 1 == len(temporary(path.name)), "the sockets of its ranks"
        agents = {one.pid for one in parents(carriers(path.name))} - {one.pid for one in carriers(path.name)}
        for agent in agents:
            os.kill(agent, signal.SIGKILL)
        until(lambda: not temporary(path.name), "the directory of the sockets is removed")
        no_one_left([], path.name)
    finally:
        muster("kill", path.name)


def test_the_next_agent_removes_the_files_of_one_that_was_killed_with_its_guard(muster: Any, script: Script) -> None:
    tidy = str(script(TIDY, "tidy.py"))
    with RunProcesses(muster, "run", "-g", "2", "--launcher", "fork", tidy) as run:
        run.wrote("ready", range(2))
        found, agent = run.everybody(), process(run.agent())
        guard = next(one.pid for one in found if agent.pid in children(one.pid))
        os.kill(agent.pid, signal.SIGSTOP)  # it would clean up as soon as its guard has gone
        os.kill(guard, signal.SIGKILL)
        os.kill(agent.pid, signal.SIGKILL)
        run.end()
        no_one_left(found, run.id)
    # an agent of a test that runs beside this one may be the next
    assert run.id in muster("clean", "--dry-run").stdout or not temporary(run.id)
    with RunProcesses(muster, "run", "-g", "2", "--launcher", "fork", tidy) as alive:
        alive.wrote("ready", range(2))
        until(lambda: not temporary(run.id), "the next agent removes it")
        own = temporary(alive.id)
        assert 1 == len(own)
        with RunProcesses(muster, "run", "-g", "2", "--launcher", "fork", tidy) as third:
            third.wrote("ready", range(2))
            time.sleep(1.5)  # longer than an agent waits before it looks
            os.kill(third.agent(), signal.SIGKILL)
            third.end()
            until(lambda: not temporary(third.id), "its guard removes them")
        assert own == temporary(alive.id), "nobody removes the files of a live agent"


def test_killing_muster_and_its_agent_at_once_ends_the_ranks(muster: Any, script: Script) -> None:
    with RunProcesses(muster, "run", "-g", "2", "--launcher", "fork", str(script(TIDY, "tidy.py"))) as run:
        run.wrote("ready", range(2))
        found, agent = run.everybody(), run.agent()
        run.process.kill()
        os.kill(agent, signal.SIGKILL)
        run.process.wait()
        no_one_left(found, run.id)
        assert (
            "state    lost: muster and its agent were killed, or the disk was full"
            in muster("show").stdout.splitlines()
        )
        assert [] == temporary(run.id)


TIDY = """
import os, sys, time
import torch, torch.distributed as dist
dist.init_process_group("gloo")
attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
dist.barrier()
print("ready", attempt)
while not os.path.exists("go" + attempt):
    time.sleep(0.02)
dist.barrier()
print("through")
sys.exit(3 if attempt == "0" else 0)
"""


def test_killing_the_warm_interpreter_does_nothing_to_the_ranks_nor_to_a_restart(
    muster: Any, script: Script, tmp_path: Path
) -> None:
    with RunProcesses(muster, "run", "-g", "2", "--max-restarts", "1", str(script(TIDY, "tidy.py"))) as run:
        run.wrote("ready", range(2))
        first, warm = {process(pid) for pid in run.ranks().values()}, run.warm()
        os.kill(warm, signal.SIGKILL)
        until(lambda: warm not in children(run.agent()), "the warm interpreter is gone")
        assert first == set(living(first))
        (tmp_path / "go0").touch()
        run.wrote("ready 1", range(2), attempt=1)
        assert "through" in run.log(0) and "through" in run.log(1)
        assert warm != run.warm()
        (tmp_path / "go1").touch()
        status, _, err = run.end()
        assert 0 == status, err
        assert 1 == run.outcome()["attempt"]
        no_one_left([], run.id)


def test_killing_the_store_ends_everything_and_is_told(muster: Any, script: Script) -> None:
    with RunProcesses(muster, "run", "-g", "2", "--grace", "1", str(script(BUSY, "busy.py"))) as run:
        run.wrote("ready", range(2))
        found = everyone(run)
        os.kill(run.store(), signal.SIGKILL)
        status, _, err = run.end()
        assert 125 == status
        assert "the rendezvous store exited: killed by signal 9" in err
        assert not [line for line in err.splitlines() if line.startswith("Traceback")], "one of muster's own"
        no_one_left(found, run.id)


def test_killing_the_agent_of_a_detached_run_ends_what_its_ranks_had_started(muster: Any) -> None:
    text = "setsid sleep 3001 & env -i setsid sleep 3002 & echo ready; wait"
    assert 0 == muster("run", "-d", "-g", "2", "--", "bash", "-c", text).returncode
    run = muster.newest()
    until(lambda: len(carriers(run.name)) == 4, "the ranks and a program of each run")
    agent = next(iter(carriers(run.name))).pid
    while "exec(f.read" not in command(agent):
        agent = _parent(agent)
    until(lambda: 2 == sum(command(one.pid).startswith("sleep 3002") for one in family(agent)), "the others run")
    found = family(_parent(agent))
    os.kill(agent, signal.SIGKILL)
    done = muster("wait", "last")
    assert (125, True) == (done.returncode, "exited, and its ranks with it" in done.stdout), done.stderr
    no_one_left(found, run.name)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("launcher", ["fork", "exec"])
def test_leftover_processes_of_a_rank_are_killed_and_reported(muster: Any, script: Script, launcher: str) -> None:
    text = """
import os, subprocess
if os.environ["RANK"] == "0":
    subprocess.Popen(["sleep", "2000"])
    subprocess.Popen(["sleep", "2001"], start_new_session=True, env={})
    subprocess.Popen(["setsid", "sh", "-c", "trap '' TERM HUP; sleep 2002 & wait"])
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.execvp("sleep", ["sleep", "2003"])
"""
    done = muster("run", "-g", "2", "--grace", "1", "--launcher", launcher, str(script(text)))
    assert 0 == done.returncode, done.stderr
    line = r"^orphaned process, killed by muster: sleep (\d+) \(pid (\d+)\)$"
    shown = dict(re.findall(line, done.stderr, re.M))
    assert 2 <= len(shown) <= 3, done.stderr
    assert re.search(r"^\.\.\. and \d more process(es)?$", done.stderr, re.M), done.stderr
    leftovers = outcome(muster)["leftovers"]
    told = {one["process"].split()[1]: one["pid"] for one in leftovers if one["process"].startswith("sleep")}
    assert {"2000", "2001", "2002", "2003"} == set(told)
    no_one_left([], muster.newest().name, timeout=0)
    assert [] == [seconds for seconds, pid in told.items() if f"sleep {seconds}" in command(int(pid))]


def test_processes_that_exit_in_time_are_not_reported(muster: Any, tmp_path: Path) -> None:
    done = muster("run", "--", "sh", "-c", "(sleep 0.3; touch late) & echo out")
    assert (0, "[0] out\n") == (done.returncode, done.stdout)
    assert "orphaned" not in done.stderr
    assert (tmp_path / "late").exists()


SHARED = """
import os, sys, time
import torch
import torch.multiprocessing as mp
from multiprocessing import shared_memory
from torch.utils.data import DataLoader

if __name__ == "__main__":
    mp.set_sharing_strategy(sys.argv[1])
    batches = iter(DataLoader(torch.ones(64, 1000), batch_size=8, num_workers=2, persistent_workers=True))
    kept = [next(batches), next(batches)]
    lock = mp.get_context("spawn").Lock()
    block = shared_memory.SharedMemory(create=True, size=1000)
    print("ready", os.getpid(), block.name)
    if sys.argv[2] == "end":
        sys.exit(0)
    time.sleep(1000)
"""


@pytest.mark.parametrize("strategy", ["file_descriptor", "file_system"])
@pytest.mark.parametrize("ending", ["end", "killed"])
def test_no_shared_memory_of_torch_outlives_a_run(muster: Any, script: Script, strategy: str, ending: str) -> None:
    with RunProcesses(muster, "run", "-g", "2", str(script(SHARED)), strategy, ending) as run:
        blocks = []
        pids: set[int] = set()
        for rank in range(2):
            run.wrote("ready", [rank])
            _, pid, block = run.log(rank).split()
            pids |= {int(pid), *children(int(pid))}
            blocks.append(block)
        pids |= {one.pid for one in run.everybody() | carriers(run.id)}
        if ending == "killed":
            assert shared(pids) or strategy == "file_descriptor"
            run.process.kill()
        run.end()
        no_one_left([], run.id)
        until(lambda: not shared(pids), "the files of torch are gone")
        until(lambda: not set(blocks) & set(os.listdir("/dev/shm")), "the blocks of shared memory are gone")


def test_ranks_do_not_see_what_muster_needed(muster: Any, script: Script) -> None:
    text = """
import os, sys
names = [name for name in os.environ if name.startswith("MUSTER_HOOK")]
print(names, [path for path in sys.path if "hook" in path], "sitecustomize" in sys.modules, os.getppid() > 1)
print(sorted(os.listdir("/proc/self/fd"), key=int)[:3])
"""
    done = muster("run", str(script(text)))
    assert ["[0] [] [] False True", "[0] ['0', '1', '2']"] == done.stdout.splitlines()


def test_nothing_of_the_terminal_is_held_open_by_ranks(muster: Any) -> None:
    """A surviving rank must not keep a pipe of muster's open: its reader would wait for ever."""
    with RunProcesses(muster, "run", "-g", "2", "--", "sh", "-c", "echo ready; sleep 1000") as run:
        run.wrote("ready", range(2))
        mine = {os.readlink(f"/proc/{run.process.pid}/fd/{fd}") for fd in (1, 2)}
        for pid in (*run.ranks().values(), run.agent()):
            held = set()
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with suppress(FileNotFoundError):  # closed meanwhile
                    held.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
            assert set() == mine & held, command(pid)
        run.process.send_signal(signal.SIGTERM)
        assert 143 == run.end()[0]
