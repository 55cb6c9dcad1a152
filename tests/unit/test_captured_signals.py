"""Signals as events of an event loop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from muster.linux.eventloop import EventLoop
from muster.linux.signals import CapturedSignals, not_ignored

NUMBERS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    with EventLoop() as made:
        yield made


def send(number: int) -> None:
    """Send it, to the main thread, as if another process had sent it."""
    signal.pthread_kill(threading.main_thread().ident or 0, number)


def test_they_are_events_of_the_loop_until_the_context_is_left(loop: EventLoop) -> None:
    """Afterwards all is as before, including descriptors: handlers, defaults, ignored signals, nested contexts."""
    own: list[int] = []
    before: dict[int, Any] = {signal.SIGUSR1: lambda number, _: own.append(number), signal.SIGUSR2: signal.SIG_IGN}
    saved = {number: signal.signal(number, handler) for number, handler in before.items()}
    descriptors, heard = os.listdir("/proc/self/fd"), list[int]()
    try:
        with CapturedSignals(loop, NUMBERS) as outer:
            outer.handle(heard.extend)
            with CapturedSignals(loop, [signal.SIGUSR1]) as inner:
                inner.handle(lambda numbers: heard.extend(-number for number in numbers))
                inner.capture(signal.SIGTERM)
                send(signal.SIGUSR1)
                send(signal.SIGTERM)
                loop.run_once()
                assert [-signal.SIGUSR1, -signal.SIGTERM] == heard
                inner.release(signal.SIGTERM, signal.SIGINT)
                assert signal.SIG_DFL == signal.getsignal(signal.SIGTERM)
            send(signal.SIGUSR1)
            send(signal.SIGHUP)
            send(signal.SIGUSR2)
            loop.run_once()
            assert [signal.SIGUSR1, signal.SIGHUP, signal.SIGUSR2] == heard[2:]
        assert before == {number: signal.getsignal(number) for number in before}
        assert signal.SIG_DFL == signal.getsignal(signal.SIGHUP)
        assert descriptors == os.listdir("/proc/self/fd")
        assert -1 == signal.set_wakeup_fd(-1)
        send(signal.SIGUSR1)
        assert (5, [signal.SIGUSR1]) == (len(heard), own)
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)


def test_signals_before_a_handler_is_set_are_kept(loop: EventLoop) -> None:
    """It is passed to the first handler."""
    heard: dict[str, list[int]] = {"first": [], "second": []}
    with CapturedSignals(loop, NUMBERS) as signals:
        send(signal.SIGUSR1)
        loop.run_once()
        assert [signal.SIGUSR1] == signals.pending
        send(signal.SIGUSR2)
        signals.handle(heard["first"].extend)
        signals.handle(heard["second"].extend)
        while len(heard["second"]) < 2:
            loop.run_once()
        assert {"first": [], "second": [signal.SIGUSR1, signal.SIGUSR2]} == heard
        assert [] == signals.pending


def test_outside_of_the_main_thread_nothing_is_captured(loop: EventLoop) -> None:
    """Where Python would raise ValueError, the context does nothing."""
    failed: list[BaseException] = []
    before = {number: signal.getsignal(number) for number in NUMBERS}

    def run() -> None:
        try:
            with EventLoop() as own, CapturedSignals(own, NUMBERS) as signals:
                signals.handle(lambda numbers: None)
                signals.capture(signal.SIGTERM)
                signals.release(signal.SIGTERM)
                own.run_once()
                assert before == {number: signal.getsignal(number) for number in NUMBERS}
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert [] == failed


def test_what_is_ignored_can_be_left_so() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        assert [signal.SIGUSR2] == not_ignored([signal.SIGUSR1, signal.SIGUSR2])
    finally:
        signal.signal(signal.SIGUSR1, before)
