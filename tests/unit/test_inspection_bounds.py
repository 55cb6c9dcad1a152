"""An inspection ends in time, whatever the number of ranks and threads: the ranks are terminated only after it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from muster.agent import inspection
from muster.agent.rank_server import Subject
from muster.core.inspection import Inspection
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


def test_without_time_the_main_thread_of_each_rank_is_seen(busy: int) -> None:
    found = inspected(busy, 0)
    assert [0, 1, 2] == [one.rank for one in found]
    for one in found:
        assert [busy] == [thread.pid for thread in one.threads] and not one.children
