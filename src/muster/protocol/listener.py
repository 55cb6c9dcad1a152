"""Accept connections without ever failing: anyone may connect, even thousands of times."""

from __future__ import annotations

import contextlib
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from muster.linux import processes
from muster.linux.eventloop import EventLoop
from muster.protocol import local_sockets
from muster.protocol.frames import FrameDecoder

if TYPE_CHECKING:
    from muster.protocol.trace import Tracer

_REST = 0.2
"""Seconds without accepting after the kernel ran out of descriptors or memory."""
_PIECE = 1 << 16
_TOLD = 10
"""Maximum number of refusals reported by each listener."""


class FirstFew:
    """Passes on the first few of many messages."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell, self._count = tell, 0

    def __call__(self, text: str) -> None:
        """Pass the text on, unless there were too many."""
        self._count += 1
        if self._count <= _TOLD:
            self._tell(text + ("; more are not reported" if self._count == _TOLD else ""))


class Listener:
    """A listening socket; `came` is called with each connection, and `note` with a message about refused ones.

    As in trio's accept loop, no error of accept() ends it: if descriptors or memory run out it waits for a moment
    instead of spinning. Connections are refused while only the reserved descriptors are left.
    """

    def __init__(
        self,
        loop: EventLoop,
        sock: socket.socket,
        came: Callable[[socket.socket], object],
        note: Callable[[str], object],
    ) -> None:
        sock.setblocking(False)
        self.sock, self._loop, self._came, self.note = sock, loop, came, note
        self._closed = self._paused = False
        self.last = processes.first_reserved()
        """Connections whose descriptor has this number or a higher one are refused: the kernel assigns the lowest."""
        self._watch()

    def close(self) -> None:
        """Stop accepting; the socket stays open."""
        self._closed = True
        self._unwatch()

    def pause(self) -> None:
        """Leave new connections in the kernel's queue."""
        self._paused = True
        self._unwatch()

    def resume(self) -> None:
        """Accept again."""
        self._paused = False
        self._watch()

    def _watch(self) -> None:
        if not self._closed and not self._paused:
            self._loop.add_reader(self.sock, self._ready)

    def _unwatch(self) -> None:
        self._loop.remove_reader(self.sock)

    def _ready(self) -> None:
        try:
            sock, _ = self.sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # the peer is gone already
        except OSError as error:
            self._rest(f"cannot accept connections: {processes.reason(error)}")
            return
        if sock.fileno() >= self.last:
            sock.close()
            self._rest("refusing connections: too few file descriptors left")
            return
        with guarded(self.note, sock.close):
            sock.setblocking(False)
            self._came(sock)

    def _rest(self, why: str) -> None:
        self.note(why)
        self._unwatch()
        self._loop.call_later(_REST, self._watch)


@contextlib.contextmanager
def guarded(note: Callable[[str], object], close: Callable[[], object]) -> Iterator[None]:
    """Handle one connection in this context: an exception closes only this connection, and is noted."""
    try:
        yield
    except Exception as error:
        close()
        where = traceback.extract_tb(error.__traceback__)[-1]
        note(f"closed a connection: {type(error).__name__}: {error} ({where.name}, line {where.lineno})")


class Peer:
    """A connection to another process on this machine; an error in it closes it and affects nothing else.

    `heard` is called with each frame, `gone` once at the end.
    """

    def __init__(
        self,
        loop: EventLoop,
        sock: socket.socket,
        heard: Callable[[Peer, dict[str, Any], bytes], object],
        gone: Callable[[Peer], object],
        note: Callable[[str], object],
    ) -> None:
        self._loop, self._sock, self._heard, self._gone, self._note = loop, sock, heard, gone, note
        self._frames = FrameDecoder()
        self.tracer: Tracer | None = None
        """Prints the conversation, if that is enabled."""
        self.out = bytearray()
        """Data that the connection has not taken yet."""
        self.open = True
        loop.add_reader(sock, self._ready)

    def send(self, frame: bytes) -> None:
        """Send a frame, or queue it until the connection accepts it."""
        if self.open:
            if self.tracer is not None:
                self.tracer.sent(frame)
            self.out += frame
            self._flush()

    def close(self) -> None:
        """Close the connection."""
        if self.open:
            self.open = False
            self._loop.remove(self._sock)
            self._sock.close()
            self._gone(self)

    def _flush(self) -> None:
        try:
            while self.out:
                del self.out[: self._sock.send(self.out[:_PIECE])]
        except BlockingIOError:
            pass
        except OSError:
            self.out.clear()  # a broken connection is detected by the reader
        if self.out:
            self._loop.add_writer(self._sock, self._flush)
        else:
            self._loop.remove_writer(self._sock)

    def _ready(self) -> None:
        with guarded(self._note, self.close):
            try:
                data = self._sock.recv(_PIECE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            for fields, payload in self._frames.feed(data):
                if self.open:
                    self._heard(self, fields, payload)
            if not data:
                self.close()


class LocalListener(Listener):
    """A listener on this machine that accepts only its own user and root."""

    def __init__(
        self,
        loop: EventLoop,
        sock: socket.socket,
        came: Callable[[socket.socket], object],
        note: Callable[[str], object],
    ) -> None:
        self._known = came
        super().__init__(loop, sock, self._check, note)

    def _check(self, sock: socket.socket) -> None:
        uid = local_sockets.peer(sock)
        if uid in (os.getuid(), 0):
            self._known(sock)
        else:
            sock.close()
            self.note(f"refused a connection of user {uid}")
