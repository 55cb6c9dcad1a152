"""Readers of the log files of ranks, by offset, as they grow.

A rank's descriptors 1 and 2 *are* its files, so nothing is lost if a reader is slow, or dies. inotify reports which
file has grown: idle ranks cost nothing.
"""

from __future__ import annotations

import ctypes
import errno
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
"""Maximum number of bytes of events to read at once; the kernel's queue has half of that."""
_LOOKS = 4
"""Maximum number of checks for what was written while sizes were read."""
_PATIENCE = 10
"""Maximum number of times to postpone reporting growth if that helps to determine the order."""
_ONE_TURN = 2
"""Maximum number of times if the only doubt is whether one turn wrote several lines, as most multi-line prints do."""
_IN_ORDER = 1 << 16
"""Maximum growth in bytes of a stream for its lines to be ordered with those of other streams."""
_CHANGES, _CHANGES_A_SECOND = 4096, 1000
"""Maximum number of switches between streams that are reported at once, and per second. Beyond it, only the growth is
reported."""
_TRACEBACK = (
    b"Traceback (most recent call last)",
    b"Fatal Python error",
    # a syntax error of the script itself has no traceback head
    b"\nSyntaxError: ",
    b"\nIndentationError: ",
    b"\nTabError: ",
)
_LONGEST = max(map(len, _TRACEBACK))

_GONE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ESTALE))
"""The errors for a log that somebody has deleted, also on another machine with the same NFS: its rank goes on."""

_libc = ctypes.CDLL(None, use_errno=True)


class Cut(NamedTuple):
    """Offsets at which turns of writing to a file may have ended."""

    ends: tuple[int, ...]
    doubtful: bool
    """True if there is a line more than these turns account for. A write shows in the size of a file a moment before
    the kernel reports it, and another process may run in between."""


class LogFile:
    """One log file of one rank."""

    def __init__(self, rank: int, kind: str, path: str, attempt: int = 0) -> None:
        self.rank, self.kind, self.path, self.attempt = rank, kind, path, attempt
        self.noticed = 0
        """Offset up to which growth was reported."""
        self.written_at = 0
        """Time of the last write as `size` last saw it, in nanoseconds of the file system's coarse clock."""
        self.scanned = 0
        """Offset up to which `scan` has searched."""
        self.traceback_at: float | None = None
        """Monotonic time at which the head of the latest traceback was seen."""
        self.traceback_offset = 0
        """Where that head begins, as far as it is in the file."""
        self._tail = b""

    def scan(self) -> None:
        """Search new output for the head of a traceback, whether or not there is a reader."""
        while True:
            data = self.at(self.scanned, 1 << 20)
            if not data:
                return
            self.scanned += len(data)
            self.look_through(data)

    def look_through(self, data: bytes) -> None:
        """Search these bytes, which follow the previous ones, for the head of a traceback."""
        old, seen = len(self._tail), self._tail + data
        found = max((seen.rfind(head) for head in _TRACEBACK if seen.rfind(head) + len(head) > old), default=-1)
        if found >= 0:
            self.traceback_at = time.monotonic()
            self.traceback_offset = max(0, self.scanned - len(seen) + found)
        self._tail = seen[-_LONGEST + 1 :]

    def at(self, offset: int, limit: int) -> bytes:
        """Return up to `limit` bytes of the file from `offset`; empty at its current end."""
        try:
            fd = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return b""
        try:
            return os.pread(fd, limit, offset)
        finally:
            os.close(fd)

    def cut(self, turns: int, size: int) -> Cut:
        """Return where so many turns of writing may have ended, the last one at `size`.

        Each ends at the end of a line, all with the same number of lines. Unknown for very many bytes.
        """
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
        """Return the current length of the file."""
        try:
            found = os.stat(self.path)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return 0
        self.written_at = found.st_mtime_ns
        return found.st_size


class Piece(NamedTuple):
    """Growth of a stream up to an offset."""

    stream: LogFile
    upto: int


class LogWatcher:
    """The files of all ranks of one attempt in one directory."""

    def __init__(
        self, folder: str, ranks: Iterable[int], attempt: int = 0, kinds: Iterable[str] = ("out", "err")
    ) -> None:
        self._kinds = tuple(kinds)
        self.streams: dict[str, LogFile] = {}
        self._added: list[LogFile] = []
        """Streams that had grown before inotify watched them or their name was known: no event reports that."""
        self._folder, self._attempt = folder, attempt
        self.fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        """Readable when a file has grown; -1 if the kernel has no more instances, then `notice` must be polled."""
        if self.fd >= 0 and _libc.inotify_add_watch(self.fd, os.fsencode(folder), _IN_MODIFY) < 0:
            self.close()
        for rank in ranks:
            self.add(rank)
        self._undecided: list[LogFile] = []
        self._postponed = 0
        """How many times in a row reporting growth was postponed."""
        self._changes, self._changes_at = float(_CHANGES), time.monotonic()
        """How many switches between streams may be reported, and since when that holds."""

    def add(self, rank: int) -> list[LogFile]:
        """Follow one more rank; return its files."""
        found = [LogFile(rank, kind, rank_file(self._folder, rank, kind), self._attempt) for kind in self._kinds]
        self.streams.update({os.path.basename(stream.path): stream for stream in found})
        # empty files are left out: each later write has its own event, in order
        self._added += [stream for stream in found if stream.size()]
        return found

    def notice(self, decide: bool = False) -> list[Piece]:
        """Return what was written since the last call, in the order of writing as far as known. Does not wait.

        The kernel reports in which order files have grown, but not by how much: if a file's writes alternate with
        others, its new lines are divided evenly. So if one rank prints to stdout and stderr in turn, a line each time,
        the order is correct. If the order may be known better in a moment, nothing is returned yet, unless `decide`.
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
                break  # so these sizes result from all events
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
        """Return how many checks to wait for the kernel to report a write that a size shows already; 0 if none."""
        turns, looks = Counter(order), 0
        for stream in (stream for stream, cut in cuts.items() if cut.doubtful and stream is not order[-1]):
            others = [other for other in cuts if other.rank == stream.rank and other is not stream] or [order[-1]]
            # a rank that has since written elsewhere has returned from that write, and the kernel has reported it
            if stream.written_at >= max(other.written_at for other in others):
                looks = max(looks, _ONE_TURN if turns[stream] == 1 else _PATIENCE)
        return looks

    @property
    def undecided(self) -> bool:
        """True if something has grown whose order may be known in a moment: call `notice` again."""
        return bool(self._undecided)

    @property
    def in_doubt(self) -> tuple[LogFile, ...]:
        """The streams that have grown so."""
        return tuple(dict.fromkeys(self._undecided))

    @property
    def _chatty(self) -> bool:
        return self._changes < _CHANGES_A_SECOND / 4

    def _events(self) -> list[LogFile]:
        """Return the files that the kernel reports as grown; one is repeated if another has grown in between."""
        data = b""
        while len(data) < _AT_ONCE:
            try:
                data += os.read(self.fd, 65536)
            except BlockingIOError:
                break
            if self._chatty:
                break  # overflow of the kernel's queue costs the ranks nothing
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
        """Return the pieces by which each stream has grown, one for each of its turns in this order."""
        for stream in order:
            upto = next(ends[stream], 0)
            if upto > stream.noticed:
                stream.noticed = upto
                yield Piece(stream, upto)

    def of(self, rank: int) -> list[LogFile]:
        """Return the streams of one rank."""
        return [stream for stream in self.streams.values() if stream.rank == rank]

    def close(self) -> None:
        """Stop watching; `notice` then checks all files."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


_HEAD, _CHAIN = 1 << 15, 1 << 14
"""Maximum number of bytes to read from the head of a traceback, and before it, where its causes are."""


def tail_with_traceback(path: str, offset: int) -> bytes:
    """Return the last bytes of a file, after the head of the traceback at this offset if it is farther up."""
    end = tail(path)
    try:
        with open(path, "rb") as file:
            if not 0 <= offset < os.fstat(file.fileno()).st_size - len(end):
                return end
            file.seek(max(0, offset - _CHAIN))
            head = file.read(offset - max(0, offset - _CHAIN) + _HEAD)
    except OSError:
        return end
    return head.rpartition(b"\n")[0] + b"\n  ...\n" + end.partition(b"\n")[2]


def tail(path: str, limit: int = 65536) -> bytes:
    """Return the last bytes of a file."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - limit))
            return file.read()
    except OSError:
        return b""
