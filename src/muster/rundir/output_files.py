"""Files for the ranks' output with names chosen by the user (`--output %x-%j.%t.out`), written as srun does."""

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
"""Maximum bytes of a line that are held back until it is complete, if ranks share a file."""


class OutputFiles:
    """The output files of one run. They are not links to the logs, so they remain when the run is deleted."""

    def __init__(self, targets: Mapping[tuple[int, str], str], first: int = 0):
        """`targets` are the paths by rank and stream.

        `first`: the first attempt of this controller; after a requeue, files are continued. Raises `InvalidRequest` if
        one cannot be written.
        """
        self.targets, self._first = targets, first
        self._shared = {path for path, count in Counter(targets.values()).items() if count > 1}
        self._unfinished: dict[tuple[int, int, str], bytes] = {}
        """Incomplete lines, by attempt, rank and stream."""
        self._offsets: dict[tuple[int, int, str], int] = {}
        """How much of each log has been taken."""
        self._broken: set[str] = set()
        for path in dict.fromkeys(targets.values()):
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                if os.path.islink(path) and not os.path.exists(path):
                    os.unlink(path)  # earlier versions created links to logs, which are deleted with the run
                with open(path, "ab" if first else "wb"):
                    pass
            except OSError as error:
                hint = "it is set by --output or --error, relative to the working directory of the ranks"
                raise InvalidRequest(f"cannot write {path}: {processes.reason(error)}", hint) from None

    def __bool__(self) -> bool:
        return bool(self.targets)

    def take(self, attempt: int, rank: int, stream: str, offset: int, data: bytes) -> Callable[[], None] | None:
        """Take bytes of a log; return the function that writes them, to be called in another thread."""
        key, path = (attempt, rank, stream), self.targets.get((rank, stream))
        self._offsets[key] = offset + len(data)
        if path is None:
            return None
        if path in self._shared:  # keep lines of different ranks apart
            data = self._unfinished.pop(key, b"") + data
            end = data.rfind(b"\n") + 1 or (len(data) if len(data) > _LONGEST else 0)
            if end < len(data):
                self._unfinished[key] = data[end:]
            data = data[:end]
        return partial(self._append, path, data)

    def finish(self, run: Run) -> None:
        """Add the rest of the logs that was not sent, and incomplete lines."""
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
                f"muster: warning: cannot write {path}: {processes.reason(error)}; the logs are complete",
                file=sys.stderr,
            )
