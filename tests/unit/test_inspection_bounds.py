"""An inspection ends in time, whatever the number of ranks and threads: the ranks are terminated only after it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import until

from muster.agent import inspection
from muster.agent.rank_server import Subject
from muster.core.inspection import Inspection
from muster.linux import procfs
from muster.linux.eventloop import EventLoop

BUSY = """
import subprocess, threading
event = threading.Event()
for _ in range(5):
    threading.Thread(target=event.wait).start()
child = subprocess.Popen(["sleep", "1000"])
print("up", flush=True)
event.wait()
"""


@pytest.fixture
def busy() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and b"up" in process.stdout.readline()
        yield process.pid
        for pid in (*_children(process.pid), process.pid):
            subprocess.run(["kill", "-9", str(pid)], check=False)


def _children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


def inspected(pid: int, within: float) -> list[Inspection]:
    found: list[Inspection] = []
    with EventLoop() as loop:
        subjects = [Subject(rank, pid, "", "") for rank in range(3)]
        inspection.collect(subjects, 0, loop, found.extend, within)
        while not found:
            loop.run_once()
    return found


def test_with_time_all_threads_and_children_are_seen(busy: int) -> None:
    for one in inspected(busy, 60):
        assert busy == one.threads[0].pid and 6 == len(one.threads) and ["sleep"] == [sub.name for sub in one.children]


def test_a_stopped_process_is_not_waited_for(busy: int) -> None:
    """The time would be up only after the test."""
    os.kill(busy, signal.SIGSTOP)
    until(lambda: "T" == getattr(procfs.stat(busy), "state", ""), "it is stopped")
    for one in inspected(busy, 1e6):
        assert ("T", "") == (one.threads[0].state, one.stacks)


def test_without_time_the_main_thread_of_each_rank_is_seen(busy: int) -> None:
    found = inspected(busy, 0)
    assert [0, 1, 2] == [one.rank for one in found]
    for one in found:
        assert [busy] == [thread.pid for thread in one.threads] and not one.children


SERVER = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(600)
print("up", flush=True)
while True:
    client, _ = listener.accept()
    client.recv(1000)
    client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}")
    client.close()
"""


def test_there_may_be_more_ranks_than_open_files(tmp_path: Path) -> None:
    """An agent that meets its limit would end all ranks."""
    path = str(tmp_path / "socket")
    with subprocess.Popen([sys.executable, "-c", SERVER, path], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None and b"up" in server.stdout.readline()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        found: list[Inspection] = []
        times: list[bool] = []
        try:
            used = len(os.listdir("/proc/self/fd"))
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + 150, limits[1]))
            subjects = [Subject(rank, server.pid, "", path) for rank in range(300)]
            with EventLoop() as loop:
                inspection.collect(subjects, 0, loop, found.extend, 60)
                inspection.collect_times(subjects, loop, lambda told: times.append(True), 60)
                while not (found and times):
                    loop.run_once()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            server.kill()
    assert [True] * 300 == [one.recorder for one in found]
