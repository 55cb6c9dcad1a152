"""Write files in a thread of its own: a disk that stalls holds up no decision."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable

from muster.agent import system
from muster.runs import Run
from muster.world.journal import Journal


class Scribe:
    """A queue of things to write into a run directory, and the thread that writes them in order.

    `complain` is called, in that thread, with words for the person the first time that something cannot be written.
    """

    def __init__(self, run: Run, complain: Callable[[str], None]):
        self.run, self.complain = run, complain
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._broken = False
        self._journals: dict[str, Journal] = {}
        self._thread = system.start_thread(self._work)

    def append(self, name: str, text: str) -> None:
        """Add text to a file; what there is no room for now is added later."""

        def do() -> None:
            path = self.run.path / name
            path.parent.mkdir(mode=0o700, exist_ok=True)
            if name not in self._journals:
                self._journals[name] = Journal(path)
            self._journals[name].append(text)

        self._queue.put(do)

    def put(self, name: str, offset: int, data: bytes) -> None:
        """Put bytes at their place in a file."""

        def do() -> None:
            path = self.run.path / name
            path.parent.mkdir(mode=0o700, exist_ok=True)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.pwrite(fd, data, offset)
            finally:
                os.close(fd)

        self._queue.put(do)

    def do(self, what: Callable[[], None]) -> None:
        """Do something else, after what was asked before."""
        self._queue.put(what)

    def close(self, within: float | None = None) -> None:
        """Wait until everything is written, at most so many seconds."""
        self._queue.put(None)
        self._thread.join(within)

    def _work(self) -> None:
        while True:
            what = self._queue.get()
            if what is None:
                for journal in self._journals.values():
                    journal.close()
                return
            try:
                what()
            except OSError as error:
                if not self._broken:
                    self._broken = True
                    self.complain(f"cannot write in {self.run.path}: {system.reason(error)}; the run goes on")
