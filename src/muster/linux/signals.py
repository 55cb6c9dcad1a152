"""Signals as events of a loop, for as long as somebody wants them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable
from typing import Any

from muster.linux.eventloop import EventLoop
from muster.linux.processes import CATCHABLE


def not_ignored(numbers: Iterable[int] = CATCHABLE) -> list[int]:
    """Those of them that this process does not ignore; nohup means it."""
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


class CapturedSignals:
    """A context in which signals do nothing but call `handle`, in the loop; what was there before comes back after it.

    What comes while nobody handles signals waits for who does. They have a handler of this process, and not SIG_IGN,
    which programs that are started in the context would inherit.

    Python takes signals in its main thread alone: in another one nothing is captured. Nor is it without `numbers`: the
    signals are somebody else's then.
    """

    def __init__(self, loop: EventLoop, numbers: Iterable[int]) -> None:
        self._loop, self._numbers = loop, list(numbers)
        self._handle: Callable[[list[int]], object] | None = None
        self._pending: list[int] = []
        self._before: dict[int, Any] = {}
        """The handlers that were there before, as `signal.signal` gave them."""
        self._reading = self._writing = self._fd_before = -1

    @property
    def pending(self) -> list[int]:
        """What has come and nobody has handled."""
        return list(self._pending)

    def __enter__(self) -> CapturedSignals:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin; a program that wants them to its end leaves out `stop`."""
        if self._numbers and threading.current_thread() is threading.main_thread():
            self._reading, self._writing = os.pipe()
            os.set_blocking(self._reading, False)
            os.set_blocking(self._writing, False)
            self._loop.add_reader(self._reading, self._read)
            self._fd_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
            self.capture(*self._numbers)

    def stop(self) -> None:
        """Have everything as it was before."""
        if self._reading >= 0:
            self.release(*self._before)
            signal.set_wakeup_fd(self._fd_before)
            self._loop.remove_reader(self._reading)
            os.close(self._reading)
            os.close(self._writing)
            self._reading = self._writing = -1

    def capture(self, *numbers: int) -> None:
        """Take these too, from now on."""
        if self._reading >= 0:
            for number in numbers:
                before = signal.signal(number, _do_nothing)
                self._before.setdefault(number, before)

    def release(self, *numbers: int) -> None:
        """Leave these to whoever had them before."""
        for number in numbers:
            if number in self._before:
                before = self._before.pop(number)
                if before is not None:  # else it was no handler of Python's, which cannot be put back
                    signal.signal(number, before)

    def handle(self, handle: Callable[[list[int]], object]) -> None:
        """Have this called with the numbers of signals that come, and of those that wait."""
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
    """A handler: the number of the signal is in the pipe by then."""
