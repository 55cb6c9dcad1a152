"""The store's process is started with the ranks, or by the first one that connects; its port goes with the attempt."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from muster.agent.store import StoreProcess
from muster.linux.eventloop import EventLoop


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    with EventLoop() as made:
        yield made


def test_it_starts_with_the_ranks(loop: EventLoop) -> None:
    started: list[socket.socket] = []
    store = StoreProcess(loop, False, started.append)
    store.start_unless_it_waits()
    assert [] == started, "node 0 alone has a port"
    port = store.listen("127.0.0.1")
    store.start_unless_it_waits()
    assert [port] == [sock.getsockname()[1] for sock in started]
    store.end()


def test_one_that_may_never_be_asked_for_starts_when_a_rank_connects(loop: EventLoop) -> None:
    started: list[socket.socket] = []
    store = StoreProcess(loop, True, started.append)
    port = store.listen("127.0.0.1")
    store.start_unless_it_waits()
    assert [] == started
    with socket.create_connection(("127.0.0.1", port)):
        loop.run_once(5.0)
        assert 1 == len(started)
        loop.run_once(0)
        assert 1 == len(started), "once"
    store.end()


def test_the_port_is_closed_with_the_attempt(loop: EventLoop) -> None:
    store = StoreProcess(loop, True, lambda sock: None)
    port = store.listen("127.0.0.1")
    store.end()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5.0)


def test_the_end_of_its_process_counts_once(loop: EventLoop) -> None:
    """That of an earlier attempt's store says nothing."""
    store = StoreProcess(loop, False, lambda sock: None)
    store.pid = 17
    assert [store.ended(16), store.ended(17), store.ended(17)] == [False, True, False]
