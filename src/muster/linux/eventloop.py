"""The event loop of every process of muster: descriptors, timers, and calls from other threads.

Methods have the names that they have in asyncio, which is not used because an agent would need longer to import it than
for all the rest of its start. All runs in the thread that calls `run_once`, but for `call_soon_threadsafe`.
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
"""Seconds; the kernel takes no wait of more than 24 days."""

Callback = Callable[[], object]


class HasFileno(Protocol):
    """A socket, or a file."""

    def fileno(self) -> int:
        """The descriptor; negative once it is closed."""


File = Union[int, HasFileno]


class Timer:
    """A call at a time to come."""

    def __init__(self, when: float, number: int, callback: Callback) -> None:
        self.when, self._number = when, number
        self.callback: Callback | None = callback
        """None once it is cancelled."""

    def cancel(self) -> None:
        """Do not call it any more."""
        self.callback = None

    def __lt__(self, other: Timer) -> bool:
        return (self.when, self._number) < (other.when, other._number)


class _Watched:
    """A descriptor, from its first callback to the removal of the last one."""

    def __init__(self) -> None:
        self.reader: Callback | None = None
        self.writer: Callback | None = None

    @property
    def events(self) -> int:
        """What the selector is to look for."""
        return (selectors.EVENT_READ if self.reader else 0) | (selectors.EVENT_WRITE if self.writer else 0)


class EventLoop:
    """Calls what was registered, once it is time for it. An exception of a callback leaves `run_once`."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._watched: dict[int, _Watched] = {}
        self._timers: list[Timer] = []
        self._count = 0
        """How many timers there have been; among timers of one moment the first one comes first."""
        self._soon: deque[Callback] = deque()
        self._woken, self._wake = os.pipe()
        self._closed, self._lock = False, threading.Lock()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        self.add_reader(self._woken, self._empty)

    # ---- descriptors ------------------------------------------------------------------------------------------------

    def add_reader(self, file: File, callback: Callback) -> None:
        """Call this whenever there is something to read, instead of what was called then before.

        Raises PermissionError for a plain file, which is always ready.
        """
        self._set(file, "reader", callback)

    def remove_reader(self, file: File) -> bool:
        """Do so no more, which has to be said before it is closed; False where nothing was called."""
        return self._set(file, "reader", None)

    def add_writer(self, file: File, callback: Callback) -> None:
        """Call this whenever it takes something, instead of what was called then before."""
        self._set(file, "writer", callback)

    def remove_writer(self, file: File) -> bool:
        """Do so no more, which has to be said before it is closed; False where nothing was called."""
        return self._set(file, "writer", None)

    def remove(self, *files: File) -> None:
        """Watch these no more, neither for reading nor for writing."""
        for file in files:
            self.remove_reader(file)
            self.remove_writer(file)

    def reads(self, file: File) -> bool:
        """Something is called when there is something to read."""
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
        """Seconds by the clock of its timers: this machine's monotonic one."""
        return time.monotonic()

    def call_later(self, seconds: float, callback: Callback) -> Timer:
        """Call this once, in so many seconds."""
        self._count += 1
        timer = Timer(self.time() + seconds, self._count, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def call_soon_threadsafe(self, callback: Callback) -> None:
        """Call this once, in the thread of the loop; any thread may ask for it."""
        self._soon.append(callback)
        with self._lock:  # so that nothing is written to a descriptor that belongs to somebody else by now
            if not self._closed:
                try:
                    os.write(self._wake, b"\0")
                except BlockingIOError:
                    pass  # it is awake enough

    def _empty(self) -> None:
        os.read(self._woken, 1 << 16)

    # ---- running ----------------------------------------------------------------------------------------------------

    def run_once(self, timeout: float | None = None) -> None:
        """Wait until there is something to call, at most `timeout` seconds, and call all that is due then."""
        for key, events in self._selector.select(self._wait(timeout)):
            watched: _Watched = key.data
            # an earlier callback may have closed it, and another file may have its number now
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
        """Call what threads have asked for so far, and nothing else."""
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
        """Free what the loop itself holds; what it watched stays open."""
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
