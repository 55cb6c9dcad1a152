"""Requests to the server that torch has in a rank: HTTP over a local socket, answered without the rank's Python.

The site hook starts it (`hook/torch_server.py`). It answers within milliseconds while the rank is blocked in a
collective, and not at all if the process is stopped.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol
from weakref import WeakKeyDictionary

from muster.linux.eventloop import File

COLLECTIVES = "fr_trace_json"
"""The flight recorder; the other form is pickled, and symbolizing its C++ frames takes 2 s."""

WAITS = "wait_counter_values"

THREAD = "pt_workerserver"
"""The name of the server's threads: a signal that one of them gets disturbs nobody."""

_MOST = 64 << 20

_MOST_ACTIVE = 128
"""Requests at the same time; each has an open file, of which an agent may often have 1,024."""


class Loop(Protocol):
    """The part of an event loop that a request uses."""

    def add_reader(self, file: File, callback: Callable[[], object]) -> None:
        """Call `callback` whenever `file` is readable."""

    def remove_reader(self, file: File) -> bool:
        """Stop watching `file`."""


class Subject(NamedTuple):
    """A rank to inspect."""

    rank: int
    pid: int
    stack_file: str
    socket: str
    """Path of the socket of torch's server in it; empty if it has none."""


_LONGEST = 107
"""Bytes of the path of a local socket: unix(7)."""

_ROOM = len("/999.9999999")


class RankSockets:
    """The private directory for the sockets of the ranks of a node.

    The server in a rank answers whoever may connect, so nobody else may reach its socket. A directory of the run is no
    place for it: its path may be too long, or on a file system without sockets.
    """

    def __init__(self, run_id: str, workdir: str = "") -> None:
        """`workdir`: the temporary directory of the run, if it has one; somebody else removes it."""
        self._folder, self._lock = workdir, None if workdir else -1
        self._run_id = run_id
        if not workdir:
            self._make()

    def _make(self) -> None:
        # imported late, while the fork server imports torch
        from muster.linux import private_tmp

        # TMPDIR comes last: its path is often long, and a script may look at what is in it
        bases = private_tmp.bases(os.environ)
        for base in sorted(bases, key=lambda base: base not in private_tmp.USUAL):
            if len(base) + private_tmp.NAME_LENGTH + _ROOM > _LONGEST:
                continue
            try:
                self._folder, self._lock = private_tmp.claim(base, os.urandom(16).hex(), self._run_id)
                return
            except OSError:
                continue

    def path(self, attempt: int, rank: int) -> str:
        """Return the path of a rank's socket in an attempt; empty if there is no place for it."""
        path = os.path.join(self._folder, f"{attempt}.{rank}")
        return path if self._folder and len(os.fsencode(path)) <= _LONGEST else ""

    def close(self) -> None:
        """Remove the directory."""
        from muster.linux import private_tmp

        if self._lock is not None and self._lock >= 0:
            private_tmp.release(self._folder, self._lock)
            self._lock = None


class _Queue:
    """The requests of one loop. A node may have more ranks than a process may have open files."""

    def __init__(self) -> None:
        self.waiting: deque[Request] = deque()
        self.active = 0
        self._starting = False

    def start(self) -> None:
        """Start requests that wait, as far as others have ended."""
        if self._starting:
            return  # a request that fails at once ends in the loop below
        self._starting = True
        try:
            while self.waiting and self.active < _MOST_ACTIVE:
                self.waiting.popleft().start()
        finally:
            self._starting = False


_QUEUES: WeakKeyDictionary[Loop, _Queue] = WeakKeyDictionary()


class Request:
    """One request. `then` is called once with the body of the answer, or None if there is none, unless `cancel`."""

    def __init__(self, loop: Loop, path: str, handler: str, then: Callable[[bytes | None], object]) -> None:
        self._loop, self._path, self._then, self._data = loop, path, then, bytearray()
        self._head = f"POST /handler/{handler} HTTP/1.1\r\nHost: rank\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        self._sock: socket.socket | None = None
        self._over = False
        self._queue = _QUEUES.setdefault(loop, _Queue())
        self._queue.waiting.append(self)
        self._queue.start()

    def start(self) -> None:
        """Send the request."""
        if self._over:
            return
        try:
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._queue.active += 1
            self._sock.setblocking(False)
            self._sock.connect(self._path)
            self._sock.sendall(self._head.encode())
        except OSError:  # the rank has no server (yet), or has exited; or too many files are open
            self._finish(None)
            return
        self._loop.add_reader(self._sock, self._read)

    def cancel(self) -> None:
        """Stop waiting for the answer."""
        self._over = True
        if self._sock is not None:
            self._loop.remove_reader(self._sock)
            self._sock.close()
            self._sock = None
            self._queue.active -= 1
            self._queue.start()

    def _read(self) -> None:
        assert self._sock is not None
        try:
            data = self._sock.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._data += data
        body = body_of(self._data, ended=not data)
        if body is not None or not data or len(self._data) > _MOST:
            self._finish(body)

    def _finish(self, body: bytes | None) -> None:
        self.cancel()
        self._then(body)


def body_of(answer: bytes | bytearray, ended: bool) -> bytes | None:
    """Return the body of an HTTP answer with status 200; None if it is incomplete or another one."""
    head, end, body = bytes(answer).partition(b"\r\n\r\n")
    if not end or b" 200 " not in head.partition(b"\r\n")[0] + b" ":
        return None
    for line in head.lower().split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name == b"content-length" and value.strip().isdigit():
            return body if len(body) >= int(value) else None
    return body if ended else None
