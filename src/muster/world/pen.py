"""Write what a person sees, in a thread of its own: a terminal that takes nothing for a while holds up no decision."""

from __future__ import annotations

import os
import queue
import select
from typing import Any

from muster.agent import system
from muster.agent.descriptors import lead_nowhere

_FORSAKEN: set[int] = set()


def forsaken(fd: int) -> bool:
    """Whoever read what is written there has gone (`| head`)."""
    look = select.poll()
    look.register(fd, 0)
    return fd in _FORSAKEN or any(event & select.POLLERR for _, event in look.poll(0))


def write_all(fd: int, data: bytes | bytearray) -> None:
    """Write all of it; whoever reads may have gone (`| head`), which ends nothing. Raises OSError (a full disk)."""
    left = memoryview(data)  # of a long line a pipe takes a thousandth at a time
    try:
        while left:
            left = left[os.write(fd, left) :]
    except BrokenPipeError:
        lead_nowhere(fd)
        _FORSAKEN.add(fd)
    except BlockingIOError:
        os.set_blocking(fd, True)
        write_all(fd, bytes(left))


def write(fd: int, data: bytes) -> None:
    """The same, where the logs are kept elsewhere: a terminal that was closed, or a full disk behind `> file`, takes
    nothing away."""
    try:
        write_all(fd, data)
    except OSError:
        pass


class Pen:
    """A queue of things to write, and the thread that writes them in order."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[int, bytes] | Any] = queue.SimpleQueue()
        self.told, self._tell = os.pipe()
        """`told` is readable when `reached` has something to give."""
        os.set_blocking(self.told, False)
        self._reached: list[Any] = []
        self._dropping = False
        self._thread = system.start_thread(self._work)

    def put(self, fd: int, data: bytes) -> None:
        """Have these bytes written."""
        if data:
            self._queue.put((fd, data))

    def mark(self, what: Any) -> None:
        """Have `reached` give `what` once everything before it has been written."""
        self._queue.put([what])

    def reached(self) -> list[Any]:
        """The marks that have been reached since the last time."""
        try:
            os.read(self.told, 4096)
        except BlockingIOError:
            pass
        found = []
        while self._reached:
            found.append(self._reached.pop(0))
        return found

    def close(self, drop: bool = False) -> None:
        """Wait until everything is written; with `drop`, for a moment only."""
        self._dropping = drop
        self._queue.put(None)
        self._thread.join(0.2 if drop else None)

    def _work(self) -> None:
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, list):
                self._reached += item
                os.write(self._tell, b"x")
            elif not self._dropping:
                write(*item)
