"""Write the files of a run, in a thread of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from muster.linux import processes
from muster.linux.writer import Writer
from muster.rundir.journal import Journal
from muster.rundir.run import Run


class Gap(NamedTuple):
    """What a file lacks at its end, because it could not be written."""

    missing: int
    """Bytes."""
    why: str
    """The error, in words."""


class RunWriter:
    """Writes into a run directory what it is asked to, in order.

    `complain` is called with words for the person the first time that something cannot be written; they name the file
    `only`, if it is the only one.
    """

    def __init__(self, writer: Writer, run: Run, complain: Callable[[str], object], only: str = ""):
        self.writer, self.run, self._complain = writer, run, complain
        self._where = str(run.path / only) if only else f"in {run.path}"
        self._broken = False
        self._journals: dict[str, Journal] = {}
        self.gaps: dict[str, Gap] = {}
        """By name: files of `put` that are not whole."""

    def append(self, name: str, text: str) -> None:
        """Add text to a file; what there is no room for now is added later."""

        def do() -> None:
            path = self.run.path / name
            path.parent.mkdir(mode=0o700, exist_ok=True)
            if name not in self._journals:
                self._journals[name] = Journal(path)
            self._journals[name].append(text)

        self.do(do)

    def behind(self, name: str) -> bool:
        """What was appended to this file waits for room on the disk."""
        return name in self._journals and self._journals[name].waits

    def put(self, name: str, offset: int, data: bytes, then: Callable[[], object] | None = None) -> None:
        """Put bytes at their place in a file; `then` is called in the loop, whether or not they could be written.

        Nothing is written behind a gap: the file is always the beginning of what it copies, and `gaps` says how much
        it lacks.
        """

        def do() -> None:
            try:
                self._lay(name, offset, data)
            except OSError as error:
                self._note_gap(name, offset + len(data), processes.reason(error))
                raise

        self.do(do)
        if then is not None:
            self.writer.then(then)

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

    def do(self, what: Callable[[], object]) -> None:
        """Do something else, after what was asked before."""
        self.writer.do(what, self._failed)

    def close(self) -> int:
        """Wait until everything is written; gives how many lines could not be added to their files."""
        lost: list[int] = []
        self.do(lambda: lost.extend(journal.close() for journal in self._journals.values()))
        self.writer.close()
        return sum(lost)

    def _failed(self, error: OSError) -> None:
        if not self._broken:
            self._broken = True
            with suppress(OSError):  # stderr may be a file on the same full disk
                self._complain(f"cannot write {self._where}: {processes.reason(error)}; the run goes on")
