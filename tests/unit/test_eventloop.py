"""The event loop: which callbacks it calls, and when."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from muster.linux.eventloop import EventLoop


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    with EventLoop() as made:
        yield made


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    with ours, theirs:
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


def test_one_descriptor_is_read_and_written(loop: EventLoop, pair: Pair) -> None:
    """Reading and writing have separate callbacks, of which the last one counts, and are removed separately."""
    ours, theirs = pair
    called: list[str] = []
    loop.add_reader(ours, lambda: called.append("old"))
    loop.add_reader(ours.fileno(), lambda: called.append(ours.recv(10).decode()))
    loop.run_once(0)
    assert [] == called
    theirs.send(b"one")
    loop.add_writer(ours, lambda: called.append("writes"))
    loop.run_once()
    assert ["one", "writes"] == called
    assert (True, False, True) == (loop.remove_writer(ours), loop.remove_writer(ours), loop.reads(ours))
    theirs.send(b"two")
    loop.run_once()
    assert ["one", "writes", "two"] == called
    loop.remove(ours, theirs, -1)
    theirs.send(b"three")
    loop.run_once(0)
    assert (3, False) == (len(called), loop.reads(ours))


def test_a_regular_file_cannot_be_waited_for(loop: EventLoop) -> None:
    with open(__file__) as file:
        for _ in range(2):
            with pytest.raises(PermissionError):
                loop.add_reader(file, lambda: None)
        assert not loop.reads(file)


def test_nothing_is_called_for_a_descriptor_that_an_earlier_callback_has_closed(loop: EventLoop) -> None:
    """Nor is another file with the same descriptor number mistaken for it."""
    pairs = [socket.socketpair() for _ in range(2)]
    ours, theirs = zip(*pairs)
    called: list[socket.socket] = []

    def heard(sock: socket.socket, other: socket.socket) -> None:
        called.append(sock)
        number = other.fileno()
        loop.remove(other)
        other.close()
        reading, writing = os.pipe()
        os.dup2(reading, number)
        loop.add_reader(number, lambda: called.append(other))
        for fd in (reading, writing):
            os.close(fd)

    loop.add_reader(ours[0], lambda: heard(ours[0], ours[1]))
    loop.add_reader(ours[1], lambda: heard(ours[1], ours[0]))
    for sock in theirs:
        sock.send(b"x")
    loop.run_once()
    assert 1 == len(called)
    for sock in (*ours, *theirs):
        sock.close()


def test_timers_are_called_in_their_order_and_once(loop: EventLoop) -> None:
    called: list[str] = []
    loop.call_later(0.002, lambda: called.append("later"))
    loop.call_later(0, lambda: called.append("first"))
    loop.call_later(0, lambda: called.append("second"))
    loop.call_later(0.001, lambda: called.append("never")).cancel()
    while "later" not in called:
        loop.run_once(30)
    loop.run_once(0)
    assert ["first", "second", "later"] == called


def test_a_timer_may_cancel_another_and_set_one(loop: EventLoop) -> None:
    called: list[str] = []
    other = loop.call_later(0.0, lambda: called.append("set by a timer"))
    other.cancel()

    def first() -> None:
        second.cancel()
        loop.call_later(0.0, lambda: called.append("third"))

    loop.call_later(0.0, first)
    second = loop.call_later(0.0, lambda: called.append("second"))
    while not called:
        loop.run_once(30)
    assert ["third"] == called


def test_an_error_in_a_callback_leaves_the_others_for_the_next_iteration(loop: EventLoop) -> None:
    called: list[str] = []

    def fails() -> None:
        raise ZeroDivisionError

    loop.call_later(0.0, fails)
    loop.call_later(0.0, lambda: called.append("second"))
    with pytest.raises(ZeroDivisionError):
        loop.run_once()
    loop.run_once()
    assert ["second"] == called


def test_a_thread_wakes_it(loop: EventLoop) -> None:
    """It waits for nothing else, and calls back in its own thread."""
    called: list[threading.Thread] = []
    call = threading.current_thread
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=[lambda: called.append(call())])
    thread.start()
    while not called:
        loop.run_once()
    thread.join()
    assert [threading.current_thread()] == called
    for _ in range(66_000):  # more than its pipe holds
        loop.call_soon_threadsafe(lambda: called.append(thread))
    loop.run_once()
    assert 66_001 == len(called)


def test_requests_during_callbacks_run_in_the_next_iteration(loop: EventLoop) -> None:
    """So that descriptors have their turn."""
    called: list[int] = []

    def again() -> None:
        called.append(1)
        loop.call_soon_threadsafe(again)

    loop.call_soon_threadsafe(again)
    loop.run_once()
    loop.run_once()
    assert [1, 1] == called


def test_closed_it_leaves_descriptors_open_and_threads_alone(pair: Pair) -> None:
    ours, theirs = pair
    before = set(os.listdir("/proc/self/fd"))
    with EventLoop() as loop:
        loop.add_reader(ours, lambda: None)
    loop.close()
    loop.call_soon_threadsafe(lambda: None)
    assert before == set(os.listdir("/proc/self/fd"))
    assert 1 == theirs.send(b"x")
