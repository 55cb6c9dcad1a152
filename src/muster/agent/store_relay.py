"""Connections of ranks to a store on another node, which cross the authenticated connections of the agents.

The agent of a rank listens on the loopback interface in place of the store, and that of the store's node connects to
the store there. In between, bytes travel in messages to the controller, which forwards them (`protocol/streams.py`).
So no port of the rendezvous can be reached from another machine.
"""

from __future__ import annotations

import errno
import resource
import socket
from collections.abc import Callable
from contextlib import suppress

from muster.linux.eventloop import EventLoop
from muster.protocol.channel import Emit
from muster.protocol.frames import Refused
from muster.protocol.streams import Piece, Stream

LOOPBACK = "127.0.0.1"

_ULIMIT = "half of `ulimit -n`"

_PAUSE = 1.0
"""Seconds without new connections after one could not be accepted."""


def limit() -> int:
    """Return how many connections an agent relays at a time: half of the files that it may open."""
    return max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)


class _Crossing:
    """A connection on this machine, and its stream to another node."""

    def __init__(self, sock: socket.socket, node: int, number: int, connecting: bool) -> None:
        self.sock, self.node, self.number = sock, node, number
        self.connecting = connecting
        self.shut = False
        """Whether this end will write nothing more."""
        self.closing = False
        """Whether the other end is gone, and it is closed once everything received has been written."""
        self.stream = Stream()


class StoreRelay:
    """The connections of one attempt that this node relays, to a store or from ranks."""

    def __init__(self, loop: EventLoop, emit: Emit, complain: Callable[[str], object]) -> None:
        self._loop, self.emit, self._complain = loop, emit, complain
        self._attempt = -1
        self._store: tuple[str, int] | None = None
        """Where the store of the attempt listens, if that is on this node."""
        self._listener: socket.socket | None = None
        self._store_node = 0
        self._known: dict[tuple[int, int], _Crossing] = {}
        """By the node of the other end, and the number of the connection."""
        self._newest: dict[int, int] = {}
        """The highest number so far, by node: the node of the rank numbers its connections from 1."""
        self._most = limit()
        self._told_limit = False

    # ---- an attempt -------------------------------------------------------------------------------------------------

    def serve(self, attempt: int, port: int) -> None:
        """Relay from other nodes to the store at this port of the loopback interface."""
        self.end()
        self._attempt, self._store = attempt, (LOOPBACK, port)

    def listen(self, attempt: int, node: int, port: int) -> int:
        """Relay ranks of this node to the store on `node`; return the port that they connect to: `port` if it is free.

        Raises OSError.
        """
        self.end()
        self._attempt, self._store_node = attempt, node
        try:
            self._listener = socket.create_server((LOOPBACK, port), backlog=4096)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            self._listener = socket.create_server((LOOPBACK, 0), backlog=4096)
        self._listener.setblocking(False)
        self._admit()
        found: int = self._listener.getsockname()[1]
        return found

    def end(self) -> None:
        """Close everything that belongs to the attempt."""
        self._attempt, self._store = -1, None
        for crossing in list(self._known.values()):
            self._drop(crossing)
        self._newest.clear()
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    # ---- connections on this machine --------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Accept connections, unless there are too many: those wait in the kernel's queue."""
        if self._listener is not None and len(self._known) < self._most:
            self._loop.add_reader(self._listener, self._called)

    def _called(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:  # no descriptor is left
            self._loop.remove_reader(self._listener)
            self._loop.call_later(_PAUSE, self._admit)
            return
        number = self._newest[self._store_node] = self._newest.get(self._store_node, 0) + 1
        crossing = self._add(sock, self._store_node, number, connecting=False)
        self._send(crossing, crossing.stream.again())  # opens the connection at the other end
        if len(self._known) >= self._most:
            self._loop.remove_reader(self._listener)

    def _connect(self, node: int, number: int) -> _Crossing | None:
        """Connect to the store for a rank of `node`; return None if that is impossible."""
        assert self._store is not None
        self._newest[node] = number
        if len(self._known) >= self._most:
            if not self._told_limit:
                self._told_limit = True
                self.emit("note", text=f"refused a connection to the store: {self._most} are relayed ({_ULIMIT})")
            return None
        try:
            sock = socket.socket()
        except OSError:
            return None
        sock.setblocking(False)
        result = sock.connect_ex(self._store)
        if result not in (0, errno.EINPROGRESS):
            sock.close()
            return None
        return self._add(sock, node, number, connecting=True)

    def _add(self, sock: socket.socket, node: int, number: int, connecting: bool) -> _Crossing:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        crossing = self._known[node, number] = _Crossing(sock, node, number, connecting)
        self._watch(crossing)
        return crossing

    def _watch(self, crossing: _Crossing) -> None:
        """Wait for what the stream needs next."""
        sock, stream = crossing.sock, crossing.stream
        if stream.room and not crossing.connecting and not crossing.closing:
            self._loop.add_reader(sock, lambda: self._readable(crossing))
        else:
            self._loop.remove_reader(sock)
        if stream.out or crossing.connecting:
            self._loop.add_writer(sock, lambda: self._writable(crossing))
        else:
            self._loop.remove_writer(sock)

    def _readable(self, crossing: _Crossing) -> None:
        try:
            data = crossing.sock.recv(crossing.stream.room)
        except BlockingIOError:
            return
        except OSError:
            self._broken(crossing)
            return
        self._send(crossing, crossing.stream.send(data))
        self._settle(crossing)

    def _writable(self, crossing: _Crossing) -> None:
        if crossing.connecting:
            if crossing.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._broken(crossing)
                return
            crossing.connecting = False
        self._write(crossing)

    def _write(self, crossing: _Crossing) -> None:
        """Write what the socket accepts, and tell the other end."""
        stream = crossing.stream
        if stream.out and not crossing.connecting:
            try:
                count = crossing.sock.send(stream.out)
            except BlockingIOError:
                count = 0
            except OSError:
                self._broken(crossing)
                return
            stream.passed_on(count)
        self._tell_taken(crossing)
        self._settle(crossing)

    def _settle(self, crossing: _Crossing) -> None:
        """End what is over, in one direction or both."""
        stream = crossing.stream
        if stream.over or (crossing.closing and not stream.out):
            self._drop(crossing)
            return
        if stream.may_shut_down and not crossing.shut and not crossing.connecting:
            crossing.shut = True
            with suppress(OSError):  # it has closed its end
                crossing.sock.shutdown(socket.SHUT_WR)
        self._watch(crossing)

    def _broken(self, crossing: _Crossing) -> None:
        """Tell the other end that this connection is gone."""
        self.emit("relay_end", attempt=self._attempt, node=crossing.node, number=crossing.number)
        self._drop(crossing)

    def _drop(self, crossing: _Crossing) -> None:
        del self._known[crossing.node, crossing.number]
        self._loop.remove(crossing.sock)
        crossing.sock.close()
        self._admit()

    # ---- messages of the other end ----------------------------------------------------------------------------------

    def _send(self, crossing: _Crossing, piece: Piece) -> None:
        at = {"attempt": self._attempt, "node": crossing.node, "number": crossing.number}
        self.emit("relay", piece.data, **at, offset=piece.offset, last=piece.last)

    def _tell_taken(self, crossing: _Crossing, again: bool = False) -> None:
        upto = crossing.stream.news(again)
        if upto is None:
            return
        self.emit("relay_taken", attempt=self._attempt, node=crossing.node, number=crossing.number, upto=upto)

    def relayed(self, attempt: int, node: int, number: int, offset: int, data: bytes, last: bool) -> None:
        """Take a piece of a stream; a new number opens a connection to the store."""
        if attempt != self._attempt:
            return
        crossing = self._known.get((node, number))
        if crossing is None and self._store is not None and number > self._newest.get(node, 0):
            crossing = self._connect(node, number)
        if crossing is None:  # it has ended here, and the message about it was lost
            self.emit("relay_end", attempt=attempt, node=node, number=number)
            return
        try:
            crossing.stream.receive(Piece(offset, data, last))
        except Refused as error:
            self._refuse(crossing, error)
        else:
            self._write(crossing)

    def taken(self, attempt: int, node: int, number: int, upto: int) -> None:
        """Handle an acknowledgement: the other end has written the first `upto` bytes to its socket."""
        crossing = self._known.get((node, number))
        if attempt != self._attempt or crossing is None:
            return
        try:
            crossing.stream.taken(upto)
        except Refused as error:
            self._refuse(crossing, error)
        else:
            self._settle(crossing)

    def ended(self, attempt: int, node: int, number: int) -> None:
        """Handle that the connection at the other end is gone."""
        crossing = self._known.get((node, number))
        if attempt == self._attempt and crossing is not None:
            crossing.closing = True
            self._settle(crossing)

    def _refuse(self, crossing: _Crossing, error: Refused) -> None:
        self._complain(f"closed a connection to the store that is relayed: {error}")
        self._broken(crossing)

    def again(self) -> None:
        """Repeat to a new controller what the one before may not have forwarded."""
        for crossing in list(self._known.values()):
            self._send(crossing, crossing.stream.again())
            self._tell_taken(crossing, again=True)
