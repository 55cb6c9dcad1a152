"""When the ranks of a node wrote what: a small file beside their logs, by which `muster logs` orders the output.

    @ 1795749726.123 0      time in seconds since 1970, and the attempt of the lines below
    12 0o30 0e12 0o5        12 ms later rank 0 had written 30 more bytes to stdout, 12 to stderr, 5 to stdout

Ranks write their logs themselves, so the agent adds a line each time it checks how far these have grown. The rest of
an `@` line is the lengths of logs that existed before (`0o120`).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

NAME = "times.log"
"""Name of the file, in the directory of a node."""

_FREE = 1 << 16
_SHARE = 8
_SLOWLY = 1.0
"""The file grows freely up to `_FREE` bytes and a `_SHARE`th of the logs; then by one line per so many seconds."""
_MOST = 64
"""Maximum number of queued pieces; beyond it only the last of each log is kept."""

_CLOCK = re.compile(rb"@ ([0-9]{1,11}\.[0-9]{3}) ([0-9]{1,9})((?: [0-9]{1,9}[oe][0-9]{1,18})*)")
_GROWN = re.compile(rb"([0-9]{1,12})((?: [0-9]{1,9}[oe][0-9]{1,18})+)")
_PIECE = re.compile(rb" ([0-9]+)([oe])([0-9]+)")
_STREAMS = {b"o": "out", b"e": "err"}


class Grown(NamedTuple):
    """The length of a log at a time."""

    time: float
    """Seconds since 1970."""
    attempt: int
    rank: int
    stream: str
    upto: int


class Appender:
    """Appends to a file that is created with the first bytes."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    def __call__(self, data: bytes) -> bool:
        """Append; return False if not everything could be written, as on a full disk."""
        try:
            if self._fd < 0:
                self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            return os.write(self._fd, data) == len(data)
        except OSError:
            return False


class Timeline:
    """Writer of the file. `after` calls a function once, after so many seconds."""

    def __init__(
        self,
        write: Callable[[bytes], bool],
        after: Callable[[float, Callable[[], None]], object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._write, self._after, self._clock = write, after, clock
        self._attempt = -1
        self._sizes: dict[tuple[int, str], int] = {}
        self._waiting: list[tuple[tuple[int, str], int]] = []
        self._due = self._broken = False
        self._last = 0.0
        """Time of the last line."""
        self._written = self._logs = 0
        """Number of bytes of this file, and of the logs it describes."""

    def grown(self, attempt: int, pieces: Iterable[tuple[int, str, int]]) -> None:
        """Record that logs have grown, in this order: (rank, stream, new length)."""
        if attempt != self._attempt:
            self.flush()
            self._attempt, self._sizes = attempt, {}
            self._begin(b"")
        for rank, stream, upto in pieces:
            if self._waiting and self._waiting[-1][0] == (rank, stream):
                self._waiting.pop()
            self._waiting.append(((rank, stream), upto))
        if self._written < _FREE + self._logs // _SHARE:
            self.flush()
            return
        if len(self._waiting) > _MOST:
            self._waiting = list(dict(self._waiting).items())
        if self._waiting and not self._due:
            self._due = True
            self._after(_SLOWLY, self.flush)

    def flush(self) -> None:
        """Write the queued pieces."""
        self._due = False
        if self._broken:
            self._begin(b"\n")  # the last line may be incomplete
        sizes, words = dict(self._sizes), []
        for log, upto in self._waiting:
            more = upto - sizes.get(log, 0)
            if more > 0:
                words.append(b" %d%c%d" % (log[0], log[1][0].encode(), more))
                sizes[log] = upto
        self._waiting = []
        later = max(0, round((self._clock() - self._last) * 1000))
        if words and not self._broken and self._put(b"%d%s\n" % (later, b"".join(words))):
            self._last += later / 1000
            self._logs += sum(sizes.values()) - sum(self._sizes.values())
            self._sizes = sizes

    def _begin(self, before: bytes) -> None:
        """Write the time, the attempt, and the lengths of the logs."""
        self._last = round(self._clock(), 3)
        told = b"".join(b" %d%c%d" % (rank, stream[0].encode(), size) for (rank, stream), size in self._sizes.items())
        self._put(b"%s@ %.3f %d%s\n" % (before, self._last, self._attempt, told))

    def _put(self, line: bytes) -> bool:
        self._broken = not self._write(line)
        self._written += len(line)
        return not self._broken


class Reading:
    """Incremental parser of the file, which may come from a host: invalid lines are skipped."""

    def __init__(self) -> None:
        self._part = b""
        self._time, self._attempt = 0.0, -1
        self._sizes: dict[tuple[int, str], int] = {}

    def feed(self, data: bytes) -> list[Grown]:
        """Return the records in the lines that end in these bytes."""
        *lines, self._part = (self._part + data).split(b"\n")
        found: list[Grown] = []
        for line in lines:
            clock, grown = _CLOCK.fullmatch(line), _GROWN.fullmatch(line)
            if clock:
                self._time, self._attempt = float(clock[1]), int(clock[2])
                self._sizes = {}
                found += self._pieces(clock[3])
            elif grown and self._attempt >= 0:
                self._time += int(grown[1]) / 1000
                found += self._pieces(grown[2])
        return found

    def _pieces(self, text: bytes) -> list[Grown]:
        found = []
        for number, letter, more in _PIECE.findall(text):
            rank, stream = int(number), _STREAMS[letter]
            upto = self._sizes[rank, stream] = self._sizes.get((rank, stream), 0) + int(more)
            found.append(Grown(self._time, self._attempt, rank, stream, upto))
        return found
