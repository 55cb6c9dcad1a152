"""A thread for what may take long: a disk that stalls, or a terminal that was stopped, holds up no decision."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from functools import partial

from muster.linux import processes
from muster.linux.eventloop import EventLoop


class Writer:
    """Does things in order, in a thread of its own, once it was started; tells in the loop what has become of them.

    What is shown and what is kept have one each: a terminal that takes nothing must not keep events from the disk.
    """

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._queue: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin. Raises OSError where there can be no more threads."""
        self._thread = processes.start_thread(self._work)

    def do(self, what: Callable[[], object], failed: Callable[[OSError], object] | None = None) -> None:
        """Do this after all that was asked for before.

        `failed` is called in the loop when it raises OSError. Any other exception leaves the loop, as it would if the
        loop had done it; the thread goes on with what was asked for next.
        """
        self._queue.put(partial(self._try, what, failed))

    def then(self, callback: Callable[[], object]) -> None:
        """Call this in the loop once all that was asked for before is done."""
        self._queue.put(partial(self._loop.call_soon_threadsafe, callback))

    def drain(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Run the loop until all that was asked for is done, or it is `enough`."""
        done: list[bool] = []
        self.then(lambda: done.append(True))
        while not done and not enough():
            self._loop.run_once()

    def close(self, within: float | None = None) -> None:
        """Wait until all is done, at most so many seconds, and have the loop hear of it."""
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(within)
        self._loop.run_soon()

    def _try(self, what: Callable[[], object], failed: Callable[[OSError], object] | None) -> None:
        try:
            what()
        except OSError as error:
            self._loop.call_soon_threadsafe(partial(failed or _raise, error))
        except Exception as error:
            self._loop.call_soon_threadsafe(partial(_raise, error))

    def _work(self) -> None:
        while True:
            what = self._queue.get()
            if what is None:
                return
            what()


def _raise(error: Exception) -> None:
    raise error
