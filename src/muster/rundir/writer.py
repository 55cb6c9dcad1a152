"""Writing the files of a run, in a thread of its own."""

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
    """The missing end of a file that could not be written."""

    missing: int
    """In bytes."""
    why: str
    """The error message."""


class RunWriter:
    """Writes files of a run directory, in order.

    `complain` is called with a message for the user the first time that writing fails; it names the file `only`, if
    that is the only one.
    """

    def __init__(self, writer: Writer, run: Run, complain: Callable[[str], object], only: str = ""):
        self.writer, self.run, self._complain = writer, run, complain
        self._where = str(run.path / only) if only else f"to {run.path}"
        self._broken = False
        self._journals: dict[str, Journal] = {}
        self.gaps: dict[str, Gap] = {}
        """Incomplete files written by `put`, by name."""

    def append(self, name: str, text: str) -> None:
        """Append text to a file; text for which there is no space is appended later."""

        def do() -> None:
            path = self.run.path / name
            path.parent.mkdir(mode=0o700, exist_ok=True)
            if name not in self._journals:
                self._journals[name] = Journal(path)
            self._journals[name].append(text)

        self.do(do)

    def behind(self, name: str) -> bool:
        """Return whether text for this file is waiting for disk space."""
        return name in self._journals and self._journals[name].waits

    def put(self, name: str, offset: int, data: bytes, then: Callable[[], object] | None = None) -> None:
        """Write bytes at an offset of a file; `then` is called in the loop, whether or not that succeeded.

        Nothing is written after a gap: the file is always a prefix of the original, and `gaps` tells how much is
        missing.
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

    def replace(self, name: str, data: bytes) -> None:
        """Write a whole file in one step."""

        def do() -> None:
            (self.run.path / name).parent.mkdir(mode=0o700, exist_ok=True)
            self.run.replace(name, data)

        self.do(do)

    def _lay(self, name: str, offset: int, data: bytes) -> None:
        path = self.run.path / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            if offset > os.fstat(fd).st_size and name in self.gaps:
                self._note_gap(name, offset + len(data), self.gaps[name].why)
                return
            left = memoryview(data)
            while left:  # a disk that fills up accepts a part
                left = left[os.pwrite(fd, left, offset + len(data) - len(left)) :]
            self.gaps.pop(name, None)
        finally:
            os.close(fd)

    def _note_gap(self, name: str, upto: int, why: str) -> None:
        """Record the gap of a file that should have `upto` bytes."""
        try:
            size = (self.run.path / name).stat().st_size
        except OSError:
            size = 0
        self.gaps[name] = Gap(max(0, upto - size), why)

    def do(self, what: Callable[[], object]) -> None:
        """Run another function, after what was requested before."""
        self.writer.do(what, self._failed)

    def close(self) -> int:
        """Wait until everything is written; return the number of lines that could not be appended."""
        lost: list[int] = []
        self.do(lambda: lost.extend(journal.close() for journal in self._journals.values()))
        self.writer.close()
        return sum(lost)

    def _failed(self, error: OSError) -> None:
        if not self._broken:
            self._broken = True
            with suppress(OSError):  # stderr may be a file on the same full disk
                self._complain(f"warning: cannot write {self._where}: {processes.reason(error)}; the run continues")
