"""A thread for slow writes: a stalled disk or a stopped terminal must not delay decisions."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from functools import partial

from muster.linux import processes
from muster.linux.eventloop import EventLoop


class Writer:
    """Runs calls in order in a thread of its own; reports errors and completion in the event loop.

    Terminal output and files use separate writers: a blocked terminal must not keep events from the disk.
    """

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._queue: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread. Raises OSError if no more threads can be started."""
        self._thread = processes.start_thread(self._work)

    def do(self, what: Callable[[], object], failed: Callable[[OSError], object] | None = None) -> None:
        """Run `what` in the thread, after everything queued before.

        `failed` is called in the loop if it raises OSError. Any other exception propagates from the loop, as if the
        loop had made the call; the thread continues with the next call.
        """
        self._queue.put(partial(self._try, what, failed))

    def then(self, callback: Callable[[], object]) -> None:
        """Run `callback` in the loop once everything queued before is done."""
        self._queue.put(partial(self._loop.call_soon_threadsafe, callback))

    def drain(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Run the loop until everything queued is done, or `enough` returns true."""
        done: list[bool] = []
        self.then(lambda: done.append(True))
        while not done and not enough():
            self._loop.run_once()

    def close(self, within: float | None = None) -> None:
        """Wait at most `within` seconds until everything queued is done, then run the loop's pending calls."""
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
