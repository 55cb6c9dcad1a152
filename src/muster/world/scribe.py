"""Write files in a thread of its own: a disk that stalls holds up no decision."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from muster.agent import system
from muster.runs import Run
from muster.world.journal import Journal


class Gap(NamedTuple):
    """What a file lacks at its end, because it could not be written."""

    missing: int
    """Bytes."""
    why: str
    """The error, in words."""


class Scribe:
    """A queue of things to write into a run directory, and the thread that writes them in order.

    `complain` is called, in that thread, with words for the person the first time that something cannot be written.
    """

    def __init__(self, run: Run, complain: Callable[[str], None]):
        self.run, self.complain = run, complain
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._broken = False
        self._journals: dict[str, Journal] = {}
        self.gaps: dict[str, Gap] = {}
        """By name: files of `put` that are not whole."""
        self.told, self._tell = os.pipe()
        """`told` is readable when `reached` has something to give."""
        os.set_blocking(self.told, False)
        os.set_blocking(self._tell, False)
        self._reached: queue.SimpleQueue[Any] = queue.SimpleQueue()
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

    def behind(self, name: str) -> bool:
        """What was appended to this file waits for room on the disk."""
        return name in self._journals and self._journals[name].waits

    def put(self, name: str, offset: int, data: bytes, mark: Any = None) -> None:
        """Put bytes at their place in a file; then `reached` gives `mark`, whether or not they could be written.

        Nothing is written behind a gap: the file is always the beginning of what it copies, and `gaps` says how much
        it lacks.
        """

        def do() -> None:
            try:
                self._lay(name, offset, data)
            except OSError as error:
                self._note_gap(name, offset + len(data), system.reason(error))
                raise
            finally:
                if mark is not None:
                    self._reached.put(mark)
                    self._wake()

        self._queue.put(do)

    def reached(self) -> list[Any]:
        """The marks that have been reached since the last time."""
        with suppress(BlockingIOError):
            os.read(self.told, 4096)
        found = []
        while not self._reached.empty():
            found.append(self._reached.get())
        return found

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # a full pipe is readable already
            os.write(self._tell, b"x")

    def _lay(self, name: str, offset: int, data: bytes) -> None:
        path = self.run.path / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            if offset > os.fstat(fd).st_size and name in self.gaps:
                self._note_gap(name, offset + len(data), self.gaps[name].why)
                return
            left = memoryview(data)
            while left:  # a disk that fills up takes a part
                left = left[os.pwrite(fd, left, offset + len(data) - len(left)) :]
            self.gaps.pop(name, None)
        finally:
            os.close(fd)

    def _note_gap(self, name: str, upto: int, why: str) -> None:
        """The file should be so long."""
        try:
            size = (self.run.path / name).stat().st_size
        except OSError:
            size = 0
        self.gaps[name] = Gap(max(0, upto - size), why)

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
                    with suppress(OSError):  # stderr may be a file on the same full disk
                        self.complain(f"cannot write in {self.run.path}: {system.reason(error)}; the run goes on")
