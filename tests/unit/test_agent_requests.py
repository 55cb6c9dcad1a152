"""Requests of a controller that an agent cannot carry out, or that are repeated."""

from __future__ import annotations

import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from manual_loop import ManualLoop
from waiting import until

from muster.agent.agent import Agent
from muster.agent.controller_process import ControllerProcess
from muster.agent.dialer import Met
from muster.agent.ranks import RankProcesses
from muster.linux import hardware, processes
from muster.protocol.local_sockets import Sockets


class Said(Agent):
    """An agent, and what it has said."""

    def __init__(self) -> None:
        super().__init__(ManualLoop(), {})
        self.said: list[tuple[str, dict[str, Any]]] = []

    def emit(self, kind: str, payload: bytes = b"", **fields: Any) -> None:
        self.said.append((kind, fields))


@contextmanager
def no_more_files() -> Iterator[None]:
    """Let this process open no file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_port_of_the_rendezvous_that_cannot_be_opened_is_an_error_of_the_run() -> None:
    agent = Said()
    agent.store_relay()
    with no_more_files():
        agent.on_start_ranks(b"", 0, {"MASTER_PORT": "29500"}, store_node=1)
    assert [("start_failed", {"what": "port", "text": "Too many open files"})] == agent.said


def test_a_port_of_the_store_that_cannot_be_opened_is_an_error_of_the_run() -> None:
    agent = Said()

    class Ranks:
        def listen(self, host: str) -> int:
            return int(hardware.listen(host).getsockname()[1])

    agent.ranks = Ranks()  # type: ignore[assignment]
    agent.on_open_store(b"", 0, "192.0.2.1")
    assert [("start_failed", {"what": "port", "text": "Cannot assign requested address"})] == agent.said
    assert -1 == agent.listened, "a new controller asks again"


def test_ranks_are_looked_at_as_often_after_several_warnings_as_after_one() -> None:
    agent = Said()
    looks: list[int] = []

    class Ranks:
        def warn(self, number: int) -> list[int]:
            looks.append(number)
            return [0]

    agent.ranks, agent.prepared = Ranks(), True  # type: ignore[assignment]
    for _ in range(5):
        agent.on_warn_preemption(b"", "USR1")
    del looks[:]
    assert isinstance(agent.loop, ManualLoop)
    agent.loop.advance(1.0)
    assert 4 <= len(looks) <= 6


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[tuple[ManualLoop, ControllerProcess, list[int], list[str]]]:
    """The parent of a controller, the pids that it has started, and why it gave up. Its run directory is missing."""
    loop, started, lost = ManualLoop(), list[int](), list[str]()

    def met(found: Met, same: bool) -> None:
        socket.socket(fileno=found.fd).close()

    sockets = Sockets(f"20261128-000000-{tmp_path.name.encode().hex()[-12:]}", "token")
    folder = str(tmp_path / "run")
    made = ControllerProcess(loop, folder, sockets, -1, "secret", started.append, met, lost.append, False)
    yield loop, made, started, lost
    made.close()
    loop.close()


def test_a_controller_that_cannot_be_started_now_is_started_later(
    parts: tuple[ManualLoop, ControllerProcess, list[int], list[str]],
) -> None:
    loop, controller, started, lost = parts
    controller.again()
    loop.advance(1.0)
    Path(controller.run_dir).mkdir()
    loop.advance(30.0)
    assert 1 == len(started) and not lost
    until(lambda: processes.procfs.stat(started[0]).state == "Z", "there is no program, so it exits")  # type: ignore[union-attr]


def test_a_controller_that_can_never_be_started_is_given_up_with_the_reason(
    parts: tuple[ManualLoop, ControllerProcess, list[int], list[str]],
) -> None:
    loop, controller, started, lost = parts
    controller.again()
    loop.advance(60.0)
    assert [] == started
    (why,) = lost
    assert "cannot be started: No such file or directory" in why


WARNED = """
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: print("warned", flush=True))
print("ready", flush=True)
while True:
    time.sleep(0.01)
"""


def test_a_process_with_the_pid_of_a_former_one_is_warned_in_the_next_attempt() -> None:
    class Watch:
        def __getattr__(self, name: str) -> Any:
            return lambda *words: None

    class Ranks(RankProcesses):
        def __init__(self) -> None:
            self.pids, self.pending_start = {0: rank.pid}, None
            self.warned: set[tuple[int, int]] = set()
            self.forks, self.forkserver, self.progress, self.watch = True, None, None, Watch()  # type: ignore[assignment]

        def start_forkserver(self) -> None:
            pass

    with subprocess.Popen([sys.executable, "-c", WARNED], stdout=subprocess.PIPE, text=True) as rank:
        assert rank.stdout is not None
        try:
            assert "ready\n" == rank.stdout.readline()
            ranks = Ranks()
            for _ in range(2):  # warned once in an attempt, which the next line would show otherwise
                assert [0] == ranks.warn(signal.SIGUSR1)
            assert "warned\n" == rank.stdout.readline()
            ranks.start(1, "", {})
            assert not ranks.warned and [0] == ranks.warn(signal.SIGUSR1)
            assert "warned\n" == rank.stdout.readline()
        finally:
            rank.kill()
