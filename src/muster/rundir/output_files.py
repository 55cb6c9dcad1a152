"""Files that hold what ranks write, under names that the user gave (`--output %x-%j.%t.out`), as srun writes them."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from muster.errors import InvalidRequest
from muster.linux import processes
from muster.rundir.run import Run

_LONGEST = 1 << 16
"""Bytes of a line that is kept back until it is whole, where ranks share a file."""


class OutputFiles:
    """The files of one run. They are not links to the logs: they stay when the run is deleted."""

    def __init__(self, targets: Mapping[tuple[int, str], str], first: int = 0):
        """`targets`: the path for each rank and stream that is wanted. `first`: the attempt with which this begins;
        files go on after the attempts of a job that was requeued.

        Raises `InvalidRequest` where one cannot be written.
        """
        self.targets, self._first = targets, first
        self._shared = {path for path, count in Counter(targets.values()).items() if count > 1}
        self._unfinished: dict[tuple[int, int, str], bytes] = {}
        """Lines that are not whole, by attempt, rank and stream."""
        self._offsets: dict[tuple[int, int, str], int] = {}
        """How much of each log has been taken."""
        self._broken: set[str] = set()
        for path in dict.fromkeys(targets.values()):
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                if os.path.islink(path) and not os.path.exists(path):
                    os.unlink(path)  # earlier versions made links to logs, which end with their run
                with open(path, "ab" if first else "wb"):
                    pass
            except OSError as error:
                hint = "`--output` and `--error` name it; a relative path begins in the directory where the ranks start"
                raise InvalidRequest(f"cannot write {path}: {processes.reason(error)}", hint) from None

    def __bool__(self) -> bool:
        return bool(self.targets)

    def take(self, attempt: int, rank: int, stream: str, offset: int, data: bytes) -> Callable[[], None] | None:
        """Take bytes of a log; gives what has to be done, in another thread, to have them in the file."""
        key, path = (attempt, rank, stream), self.targets.get((rank, stream))
        self._offsets[key] = offset + len(data)
        if path is None:
            return None
        if path in self._shared:  # lines of several ranks do not mix
            data = self._unfinished.pop(key, b"") + data
            end = data.rfind(b"\n") + 1 or (len(data) if len(data) > _LONGEST else 0)
            if end < len(data):
                self._unfinished[key] = data[end:]
            data = data[:end]
        return partial(self._append, path, data)

    def finish(self, run: Run) -> None:
        """Add what the logs hold and nobody has sent, and lines without an end."""
        for attempt in run.attempts():
            for (rank, stream), path in self.targets.items() if attempt >= self._first else ():
                key = (attempt, rank, stream)
                self._append(path, self._unfinished.pop(key, b""))
                with suppress(OSError), run.open_log(attempt, rank, stream) as file:
                    file.seek(self._offsets.get(key, 0))
                    while data := file.read(1 << 20):
                        self._append(path, data)

    def _append(self, path: str, data: bytes) -> None:
        if not data or path in self._broken:
            return
        try:
            with open(path, "ab") as file:
                file.write(data)
        except OSError as error:
            self._broken.add(path)
            print(
                f"muster: cannot write {path} any more: {processes.reason(error)}; the logs have all of it",
                file=sys.stderr,
            )
