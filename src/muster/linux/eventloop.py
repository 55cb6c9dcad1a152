"""The event loop of every muster process: file descriptors, timers, and calls from other threads.

Methods are named as in asyncio, which is not used because importing it would take longer than the rest of an agent's
start. Everything runs in the thread that calls `run_once`, except `call_soon_threadsafe`.
"""

from __future__ import annotations

import heapq
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol, Union

_LONGEST_WAIT = 86400.0
"""Seconds. The kernel rejects timeouts of more than 24 days."""

Callback = Callable[[], object]


class HasFileno(Protocol):
    """An object with a file descriptor, such as a socket or a file."""

    def fileno(self) -> int:
        """Return the descriptor; negative once it is closed."""


File = Union[int, HasFileno]


class Timer:
    """A scheduled call."""

    def __init__(self, when: float, number: int, callback: Callback) -> None:
        self.when, self._number = when, number
        self.callback: Callback | None = callback
        """None once it is cancelled."""

    def cancel(self) -> None:
        """Cancel the call."""
        self.callback = None

    def __lt__(self, other: Timer) -> bool:
        return (self.when, self._number) < (other.when, other._number)


class _Watched:
    """The callbacks of one registered descriptor."""

    def __init__(self) -> None:
        self.reader: Callback | None = None
        self.writer: Callback | None = None

    @property
    def events(self) -> int:
        """The selector events to wait for."""
        return (selectors.EVENT_READ if self.reader else 0) | (selectors.EVENT_WRITE if self.writer else 0)


class EventLoop:
    """An event loop of descriptors and timers. Exceptions of callbacks propagate out of `run_once`."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._watched: dict[int, _Watched] = {}
        self._timers: list[Timer] = []
        self._count = 0
        """Number of timers ever created; timers due at the same time run in order of creation."""
        self._soon: deque[Callback] = deque()
        self._woken, self._wake = os.pipe()
        self._closed, self._lock = False, threading.Lock()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        self.add_reader(self._woken, self._empty)

    # ---- descriptors ------------------------------------------------------------------------------------------------

    def add_reader(self, file: File, callback: Callback) -> None:
        """Call `callback` whenever `file` is readable, replacing an earlier callback.

        Raises PermissionError for a regular file, which is always ready.
        """
        self._set(file, "reader", callback)

    def remove_reader(self, file: File) -> bool:
        """Stop watching `file` for reading; return whether it was watched.

        Must be called before the file is closed.
        """
        return self._set(file, "reader", None)

    def add_writer(self, file: File, callback: Callback) -> None:
        """Call `callback` whenever `file` is writable, replacing an earlier callback."""
        self._set(file, "writer", callback)

    def remove_writer(self, file: File) -> bool:
        """Stop watching `file` for writing; return whether it was watched.

        Must be called before the file is closed.
        """
        return self._set(file, "writer", None)

    def remove(self, *files: File) -> None:
        """Stop watching `files`, for both reading and writing."""
        for file in files:
            self.remove_reader(file)
            self.remove_writer(file)

    def reads(self, file: File) -> bool:
        """Return whether `file` is watched for reading."""
        watched = self._watched.get(_fd(file))
        return watched is not None and watched.reader is not None

    def _set(self, file: File, side: str, callback: Callback | None) -> bool:
        fd = _fd(file)
        watched = self._watched.get(fd)
        if watched is None:
            if callback is None:
                return False
            watched = _Watched()
            setattr(watched, side, callback)
            self._selector.register(fd, watched.events, watched)
            self._watched[fd] = watched
            return False
        before, known = watched.events, getattr(watched, side) is not None
        setattr(watched, side, callback)
        if not watched.events:
            del self._watched[fd]
            self._selector.unregister(fd)
        elif watched.events != before:
            self._selector.modify(fd, watched.events, watched)
        return known

    # ---- times and threads ------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Return the time of the loop's clock, in seconds: this machine's monotonic clock."""
        return time.monotonic()

    def call_later(self, seconds: float, callback: Callback) -> Timer:
        """Call `callback` once after `seconds`."""
        self._count += 1
        timer = Timer(self.time() + seconds, self._count, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def call_soon_threadsafe(self, callback: Callback) -> None:
        """Call `callback` once in the thread of the loop; safe to call from any thread."""
        self._soon.append(callback)
        with self._lock:  # so that nothing is written to a descriptor that was closed and reused
            if not self._closed:
                try:
                    os.write(self._wake, b"\0")
                except BlockingIOError:
                    pass  # the pipe is full, so the loop wakes up anyway

    def _empty(self) -> None:
        os.read(self._woken, 1 << 16)

    # ---- running ----------------------------------------------------------------------------------------------------

    def run_once(self, timeout: float | None = None) -> None:
        """Wait for events for at most `timeout` seconds (None: no limit), then run all callbacks that are due."""
        for key, events in self._selector.select(self._wait(timeout)):
            watched: _Watched = key.data
            # an earlier callback may have closed the file, and another one may have its number now
            if events & selectors.EVENT_READ and self._watched.get(key.fd) is watched and watched.reader:
                watched.reader()
            if events & selectors.EVENT_WRITE and self._watched.get(key.fd) is watched and watched.writer:
                watched.writer()
        now = self.time()
        while self._timers and self._timers[0].when <= now:
            callback = heapq.heappop(self._timers).callback
            if callback is not None:
                callback()
        self.run_soon()

    def run_soon(self) -> None:
        """Run the calls that other threads have requested so far, and nothing else."""
        for _ in range(len(self._soon)):
            self._soon.popleft()()

    def _wait(self, timeout: float | None) -> float:
        if self._soon:
            return 0.0
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        wait = _LONGEST_WAIT if timeout is None else min(timeout, _LONGEST_WAIT)
        if self._timers:
            wait = min(wait, self._timers[0].when - self.time())
        return max(0.0, wait)

    def close(self) -> None:
        """Free the loop's own descriptors; watched files stay open."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            os.close(self._wake)
        os.close(self._woken)
        self._selector.close()
        self._watched.clear()

    def __enter__(self) -> EventLoop:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fd(file: File) -> int:
    return file if isinstance(file, int) else file.fileno()
