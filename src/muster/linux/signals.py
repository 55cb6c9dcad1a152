"""Signals as events of an event loop, captured for a limited time."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable
from typing import Any

from muster.linux.eventloop import EventLoop
from muster.linux.processes import CATCHABLE


def not_ignored(numbers: Iterable[int] = CATCHABLE) -> list[int]:
    """Return the signals that this process does not ignore; nohup ignores SIGHUP, and that must stay so."""
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


class CapturedSignals:
    """A context in which signals only call `handle` in the event loop; it restores the previous handlers on exit.

    Signals that arrive before `handle` is set stay pending. Captured signals have a handler rather than SIG_IGN, which
    programs started in the context would inherit.

    Python handles signals in the main thread only, so in other threads nothing is captured; nor is it if `numbers` is
    empty, since the signals belong to someone else then.
    """

    def __init__(self, loop: EventLoop, numbers: Iterable[int]) -> None:
        self._loop, self._numbers = loop, list(numbers)
        self._handle: Callable[[list[int]], object] | None = None
        self._pending: list[int] = []
        self._before: dict[int, Any] = {}
        """The previous handlers, as returned by `signal.signal`."""
        self._reading = self._writing = self._fd_before = -1

    @property
    def pending(self) -> list[int]:
        """Signals that have arrived and were not handled yet."""
        return list(self._pending)

    def __enter__(self) -> CapturedSignals:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start capturing; a program that captures signals until it exits need not call `stop`."""
        if self._numbers and threading.current_thread() is threading.main_thread():
            self._reading, self._writing = os.pipe()
            os.set_blocking(self._reading, False)
            os.set_blocking(self._writing, False)
            self._loop.add_reader(self._reading, self._read)
            self._fd_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
            self.capture(*self._numbers)

    def stop(self) -> None:
        """Restore the previous handlers."""
        if self._reading >= 0:
            self.release(*self._before)
            signal.set_wakeup_fd(self._fd_before)
            self._loop.remove_reader(self._reading)
            os.close(self._reading)
            os.close(self._writing)
            self._reading = self._writing = -1

    def capture(self, *numbers: int) -> None:
        """Capture more signals from now on."""
        if self._reading >= 0:
            for number in numbers:
                before = signal.signal(number, _do_nothing)
                self._before.setdefault(number, before)

    def release(self, *numbers: int) -> None:
        """Restore the previous handlers of these signals."""
        for number in numbers:
            if number in self._before:
                before = self._before.pop(number)
                if before is not None:  # otherwise the handler was not installed from Python, and cannot be restored
                    signal.signal(number, before)

    def handle(self, handle: Callable[[list[int]], object]) -> None:
        """Call `handle` with the numbers of arriving signals, including the pending ones."""
        self._handle = handle
        self._loop.call_soon_threadsafe(self._deliver)

    def _read(self) -> None:
        self._pending += os.read(self._reading, 4096)
        self._deliver()

    def _deliver(self) -> None:
        if self._handle is not None and self._pending:
            numbers, self._pending = self._pending, []
            self._handle(numbers)


def _do_nothing(*_: object) -> None:
    """Ignore a signal: its number is in the wakeup pipe by then."""
