"""Follow the log files of ranks by offset, as they grow.

A rank's descriptors 1 and 2 *are* its files, so nothing is lost when whoever follows is slow, or dies. inotify says
which file has grown: idle ranks cost nothing.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from muster.protocol.paths import rank_file

_IN_MODIFY = 0x2
_IN_Q_OVERFLOW = 0x4000
_EVENT = struct.Struct("iIII")
_OVERFLOWN = struct.pack("iI", -1, _IN_Q_OVERFLOW)
_AT_ONCE = 1 << 20
"""Bytes of events that are read at a time; the kernel's queue has half of that."""
_LOOKS = 4
"""How often it is looked again for what was written while sizes were looked at."""
_PATIENCE = 10
"""How often it is put off to tell what has grown, where that helps to know the order."""
_ONE_TURN = 2
"""The same where the only doubt is whether one turn wrote several lines, as most prints of several lines do."""
_IN_ORDER = 1 << 16
"""Bytes that a stream may have grown by for their lines to be put in order with those of other streams."""
_CHANGES, _CHANGES_A_SECOND = 4096, 1000
"""So many changes from one stream to another are told of at once, and in a second. Where there are more, ranks are
chatty, and it is only told what grew."""
_TRACEBACK = (
    b"Traceback (most recent call last)",
    b"Fatal Python error",
    # one of the script itself has no head
    b"\nSyntaxError: ",
    b"\nIndentationError: ",
    b"\nTabError: ",
)
_LONGEST = max(map(len, _TRACEBACK))

_libc = ctypes.CDLL(None, use_errno=True)


class Cut(NamedTuple):
    """Where turns of writing into a file may have ended."""

    ends: tuple[int, ...]
    doubtful: bool
    """There is a line more than these turns account for. A write shows in the size of a file a moment before the kernel
    tells of it, and another process may run in between."""


class LogFile:
    """One file of one rank."""

    def __init__(self, rank: int, kind: str, path: str, attempt: int = 0) -> None:
        self.rank, self.kind, self.path, self.attempt = rank, kind, path, attempt
        self.noticed = 0
        """How far it has been told of as grown."""
        self.written_at = 0
        """When it was last written to, as `size` last saw it (nanoseconds, by the coarse clock of its file system)."""
        self.scanned = 0
        """How far `scan` has come."""
        self.traceback_at: float | None = None
        """When the head of the latest traceback was seen (monotonic)."""
        self._tail = b""

    def scan(self) -> None:
        """Look through what is new for the head of a traceback, whether or not anybody reads it."""
        while True:
            data = self.at(self.scanned, 1 << 20)
            if not data:
                return
            self.scanned += len(data)
            self.look_through(data)

    def look_through(self, data: bytes) -> None:
        """Look through these bytes, which follow those before, for the head of a traceback."""
        old, seen = len(self._tail), self._tail + data
        if any(seen.rfind(head) + len(head) > old for head in _TRACEBACK if head in seen):
            self.traceback_at = time.monotonic()
        self._tail = seen[-_LONGEST + 1 :]

    def at(self, offset: int, limit: int) -> bytes:
        """The bytes of the file from `offset`, at most `limit`; empty at its present end."""
        try:
            fd = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return b""
        try:
            return os.pread(fd, limit, offset)
        finally:
            os.close(fd)

    def cut(self, turns: int, size: int) -> Cut:
        """Where so many turns of writing may have ended, of which the last ended at `size`: each at the end of a line,
        all with as many lines. Of very many bytes it is not known."""
        new = size - self.noticed
        lines: list[int] = []
        if turns <= new <= _IN_ORDER:
            data = self.at(self.noticed, new)
            lines = [self.noticed + found.end() for found in re.finditer(rb"\n", data)]
        each = len(lines) // turns
        if each:
            ends = (*(lines[each * turn - 1] for turn in range(1, turns)), size)
            return Cut(ends, len(lines) > turns and (len(lines) - 1) % turns == 0)
        # some turns have left a line unfinished
        return Cut((*lines, size) if size not in lines else tuple(lines), False)

    def size(self) -> int:
        """The present length of the file."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return 0
        self.written_at = found.st_mtime_ns
        return found.st_size


class Piece(NamedTuple):
    """A stream has grown up to there."""

    stream: LogFile
    upto: int


class LogWatcher:
    """The files of all ranks of one attempt in one folder."""

    def __init__(self, folder: str, ranks: Iterable[int], attempt: int = 0) -> None:
        self.streams: dict[str, LogFile] = {}
        self._added: list[LogFile] = []
        """Streams that had grown before the kernel was asked, or this name known: of that no event comes."""
        self._folder, self._attempt = folder, attempt
        self.fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        """Readable when a file has grown; -1 where the kernel gives no more of these, then `notice` must be called."""
        if self.fd >= 0 and _libc.inotify_add_watch(self.fd, os.fsencode(folder), _IN_MODIFY) < 0:
            self.close()
        for rank in ranks:
            self.add(rank)
        self._undecided: list[LogFile] = []
        self._postponed = 0
        """How often in a row it was put off to tell what has grown."""
        self._changes, self._changes_at = float(_CHANGES), time.monotonic()
        """How many changes from stream to stream may be told of, and since when that is so."""

    def add(self, rank: int) -> list[LogFile]:
        """Follow one rank more; gives its files."""
        found = [LogFile(rank, kind, rank_file(self._folder, rank, kind), self._attempt) for kind in ("out", "err")]
        self.streams.update({os.path.basename(stream.path): stream for stream in found})
        # one that is empty is left out: what is written from now on has its event, in its place among the others
        self._added += [stream for stream in found if stream.size()]
        return found

    def notice(self, decide: bool = False) -> list[Piece]:
        """What was written since the last time, as far as can be known in the order in which it was. Does not wait.

        The kernel tells in which order files have grown, though not by how much: of a file that others have come
        between, the new lines are shared out evenly. So what one rank prints to stdout and stderr in turn, a line each
        time, is in order. Where a moment later more may be known of the order, nothing is told yet, unless it is to
        `decide`.
        """
        now = time.monotonic()
        self._changes = min(_CHANGES, self._changes + (now - self._changes_at) * _CHANGES_A_SECOND)
        self._changes_at = now
        more = [*self.streams.values()] if self.fd < 0 else self._events()
        before = [stream for stream in self._added if stream not in more]
        order, self._added, self._undecided = before + self._undecided + more, [], []
        sizes: dict[LogFile, int] = {}
        grown = order
        for _ in range(_LOOKS):
            sizes.update({stream: stream.size() for stream in dict.fromkeys(grown)})
            grown = self._events() if self.fd >= 0 and not self._chatty else []
            if not grown:
                break  # so these sizes are what all events have led to
            order = order + grown
        sizes.update({stream: stream.size() for stream in dict.fromkeys(grown)})
        if len(sizes) < 2:
            cuts = {stream: Cut((size,), False) for stream, size in sizes.items()}
        else:
            turns = Counter(order)
            cuts = {stream: stream.cut(turns[stream], size) for stream, size in sizes.items()}
        patience = _PATIENCE if grown else self._worth_waiting(order, cuts)
        if self._postponed < patience and not decide and not self._chatty:
            self._undecided = order
            self._postponed += 1
            return []
        self._postponed = 0
        return list(self._pieces(order, {stream: iter(cut.ends) for stream, cut in cuts.items()}))

    @staticmethod
    def _worth_waiting(order: list[LogFile], cuts: dict[LogFile, Cut]) -> int:
        """How many looks may pass until the kernel tells of a write that shows in a size already; 0 where none can."""
        turns, looks = Counter(order), 0
        for stream in (stream for stream, cut in cuts.items() if cut.doubtful and stream is not order[-1]):
            others = [other for other in cuts if other.rank == stream.rank and other is not stream] or [order[-1]]
            # a rank that has written elsewhere since has returned from that write, and the kernel has told of it
            if stream.written_at >= max(other.written_at for other in others):
                looks = max(looks, _ONE_TURN if turns[stream] == 1 else _PATIENCE)
        return looks

    @property
    def undecided(self) -> bool:
        """Something has grown of which the order may be known in a moment: `notice` is to be called once more."""
        return bool(self._undecided)

    @property
    def in_doubt(self) -> tuple[LogFile, ...]:
        """The streams that have grown so."""
        return tuple(dict.fromkeys(self._undecided))

    @property
    def _chatty(self) -> bool:
        return self._changes < _CHANGES_A_SECOND / 4

    def _events(self) -> list[LogFile]:
        """The files that have grown, as the kernel tells: one comes again when another has grown in between."""
        data = b""
        while len(data) < _AT_ONCE:
            try:
                data += os.read(self.fd, 65536)
            except BlockingIOError:
                break
            if self._chatty:
                break  # what the kernel's queue does not hold costs the ranks nothing
        if _OVERFLOWN in data:
            return list(self.streams.values())
        if self._chatty or len(data) > self._changes * 2 * _EVENT.size:
            self._changes = max(0.0, self._changes - len(data) / (2 * _EVENT.size))
            return [stream for name, stream in self.streams.items() if os.fsencode(name) in data]
        found: list[LogFile] = []
        at = 0
        while at < len(data):
            *_, length = _EVENT.unpack_from(data, at)
            name = os.fsdecode(data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0"))
            at += _EVENT.size + length
            if name in self.streams:
                found.append(self.streams[name])
        self._changes -= len(found)
        return found

    @staticmethod
    def _pieces(order: list[LogFile], ends: dict[LogFile, Iterator[int]]) -> Iterator[Piece]:
        """The pieces that each stream has grown by, one for each of its turns in this order."""
        for stream in order:
            upto = next(ends[stream], 0)
            if upto > stream.noticed:
                stream.noticed = upto
                yield Piece(stream, upto)

    def of(self, rank: int) -> list[LogFile]:
        """The streams of one rank."""
        return [stream for stream in self.streams.values() if stream.rank == rank]

    def close(self) -> None:
        """Stop watching; `notice` then looks at all files."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def tail(path: str, limit: int = 65536) -> bytes:
    """The last bytes of a file."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - limit))
            return file.read()
    except OSError:
        return b""
