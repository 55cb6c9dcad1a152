"""Follow the log files of ranks by offset, as they grow.

A rank's descriptors 1 and 2 *are* its files, so nothing is lost when whoever follows is slow, or dies. inotify says
which file has grown: idle ranks cost nothing.
"""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections.abc import Iterable

_IN_MODIFY = 0x2
_IN_Q_OVERFLOW = 0x4000
_EVENT = struct.Struct("iIII")
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


def log_path(folder: str, rank: int, stream: str) -> str:
    """The file of a rank in the folder of an attempt; `stream` is `out`, `err` or `stack`."""
    return os.path.join(folder, f"rank_{rank:05d}.{stream}")


class Stream:
    """One file of one rank."""

    def __init__(self, rank: int, kind: str, path: str, attempt: int = 0) -> None:
        self.rank, self.kind, self.path, self.attempt = rank, kind, path, attempt
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

    def size(self) -> int:
        """The present length of the file."""
        try:
            return os.stat(self.path).st_size
        except FileNotFoundError:
            return 0


class Follower:
    """The files of all ranks of one attempt in one folder."""

    def __init__(self, folder: str, ranks: Iterable[int], attempt: int = 0) -> None:
        self.streams: dict[str, Stream] = {}
        self._folder, self._attempt = folder, attempt
        for rank in ranks:
            self.add(rank)
        self.fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        """Readable when a file has grown; -1 where the kernel gives no more of these, then `notice` must be called."""
        if self.fd >= 0 and _libc.inotify_add_watch(self.fd, os.fsencode(folder), _IN_MODIFY) < 0:
            self.close()
        self._sizes: dict[Stream, int] = {}

    def add(self, rank: int) -> list[Stream]:
        """Follow one rank more; gives its files."""
        found = [Stream(rank, kind, log_path(self._folder, rank, kind), self._attempt) for kind in ("out", "err")]
        self.streams.update({os.path.basename(stream.path): stream for stream in found})
        return found

    def notice(self) -> dict[Stream, None]:
        """The files that have grown since the last time, in the order in which they did first. Does not wait."""
        if self.fd < 0:
            sizes = {stream: stream.size() for stream in self.streams.values()}
            grown = {stream: None for stream, size in sizes.items() if size != self._sizes.get(stream, 0)}
            self._sizes = sizes
            return grown
        try:
            data = os.read(self.fd, 65536)
        except BlockingIOError:
            return {}
        found: dict[Stream, None] = {}
        at = 0
        while at < len(data):
            _, mask, _, length = _EVENT.unpack_from(data, at)
            name = os.fsdecode(data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0"))
            at += _EVENT.size + length
            if mask & _IN_Q_OVERFLOW:
                return dict.fromkeys(self.streams.values())
            if name in self.streams:
                found[self.streams[name]] = None
        return found

    def of(self, rank: int) -> list[Stream]:
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
