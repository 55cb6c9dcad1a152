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
_TRACEBACK = (b"Traceback (most recent call last)", b"Fatal Python error")
_LONGEST = max(map(len, _TRACEBACK))

_libc = ctypes.CDLL(None, use_errno=True)


def log_path(folder: str, rank: int, stream: str) -> str:
    """The file of a rank in the folder of an attempt; `stream` is `out`, `err` or `stack`."""
    return os.path.join(folder, f"rank_{rank:05d}.{stream}")


class Stream:
    """One file of one rank, and how far it has been read."""

    def __init__(self, rank: int, kind: str, path: str) -> None:
        self.rank, self.kind, self.path = rank, kind, path
        self.offset = 0
        self.traceback_at: float | None = None
        """When the head of the latest traceback was seen (monotonic)."""
        self._tail = b""

    def read(self, limit: int) -> bytes:
        """The next bytes of the file, at most `limit`; empty at its present end."""
        try:
            fd = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return b""
        try:
            data = os.pread(fd, limit, self.offset)
        finally:
            os.close(fd)
        self.offset += len(data)
        if self.kind == "err" and data:
            seen = self._tail + data
            if any(head in seen for head in _TRACEBACK):
                self.traceback_at = time.monotonic()
            self._tail = seen[-_LONGEST + 1 :] if len(seen) >= _LONGEST else seen
        return data

    def size(self) -> int:
        """The present length of the file."""
        try:
            return os.stat(self.path).st_size
        except FileNotFoundError:
            return 0


class Follower:
    """The files of all ranks of one attempt in one folder."""

    def __init__(self, folder: str, ranks: Iterable[int]) -> None:
        self.streams: dict[str, Stream] = {}
        for rank in ranks:
            for kind in ("out", "err"):
                stream = Stream(rank, kind, log_path(folder, rank, kind))
                self.streams[os.path.basename(stream.path)] = stream
        self.grown: set[Stream] = set()
        """Streams that may hold bytes not yet read."""
        self.fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0 or _libc.inotify_add_watch(self.fd, os.fsencode(folder), _IN_MODIFY) < 0:
            raise OSError(ctypes.get_errno(), "cannot watch " + folder)

    def notice(self) -> None:
        """Take what inotify has to say, without waiting."""
        try:
            data = os.read(self.fd, 65536)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            _, mask, _, length = _EVENT.unpack_from(data, at)
            name = os.fsdecode(data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0"))
            at += _EVENT.size + length
            if mask & _IN_Q_OVERFLOW:
                self.grown.update(self.streams.values())
            elif name in self.streams:
                self.grown.add(self.streams[name])

    def of(self, rank: int) -> list[Stream]:
        """The streams of one rank."""
        return [stream for stream in self.streams.values() if stream.rank == rank]

    def close(self) -> None:
        """Stop watching."""
        os.close(self.fd)


def tail(path: str, limit: int = 65536) -> bytes:
    """The last bytes of a file."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - limit))
            return file.read()
    except OSError:
        return b""
