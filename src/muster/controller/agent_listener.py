"""Accepts agents over TCP once they prove that they know the run's secret (`protocol/handshake.py`).

Anyone on the network can connect here. An unauthenticated peer may send a few kilobytes within a few seconds, and only
a limited number is served at a time; the others wait in the kernel's queue.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

from muster.agent.dialer import HANDSHAKE, Met, enable_keepalive
from muster.linux.eventloop import EventLoop
from muster.protocol.frames import LARGEST, FrameDecoder, Refused
from muster.protocol.handshake import ControllerSide, Terms
from muster.protocol.listener import FirstFew, Listener, guarded

_PATIENCE = 5.0
"""Timeout of a handshake, in seconds."""
_BRIEF = 0.2
"""Timeout of a handshake while others wait: longer than a network needs, so that agents get through a crowd."""
_MOST = 128
"""Maximum number of concurrent handshakes; fewer if descriptors are scarce."""
_LOOK = 0.5
"""Seconds between checks for expired handshakes."""


class _Stranger:
    """A connection that is not authenticated yet."""

    def __init__(self, sock: socket.socket, terms: Terms, since: float) -> None:
        self.sock, self.since = sock, since
        self.frames, self.hands = FrameDecoder(HANDSHAKE), ControllerSide(terms)
        self.came = 0
        """Number of bytes received from it."""


class AgentListener:
    """Listens on a port and authenticates the agents that connect.

    `knows(node)` returns how many frames of a node were received, or None if no agent of that number is expected.
    `came(node, met)` takes over a connection; `met.heard` is the number of our frames that the agent received. `note`
    is called with refusals.
    """

    def __init__(
        self,
        loop: EventLoop,
        listener: socket.socket,
        terms: Terms,
        incarnation: str,
        knows: Callable[[int], int | None],
        came: Callable[[int, Met], object],
        note: Callable[[str], object],
    ):
        self.loop, self.terms, self.incarnation, self.expect, self.accepted = loop, terms, incarnation, knows, came
        self.listener = Listener(loop, listener, self._called, FirstFew(note))
        self.most = max(8, min(_MOST, self.listener.last // 4))
        self.strangers: dict[socket.socket, _Stranger] = {}
        """In order of arrival."""
        self._crowded = False

    def close(self) -> None:
        """Stop accepting agents; the port stays open."""
        self.listener.close()
        for stranger in list(self.strangers.values()):
            self._forget(stranger)
            stranger.sock.close()

    def _called(self, sock: socket.socket) -> None:
        enable_keepalive(sock)
        stranger = _Stranger(sock, self.terms, self.loop.time())
        sock.send(stranger.hands.challenge())
        self.loop.add_reader(sock, lambda: self._heard(stranger))
        if not self.strangers:
            self.loop.call_later(_LOOK, self._look)
        self.strangers[sock] = stranger
        if len(self.strangers) >= self.most:
            self.listener.pause()
            if not self._crowded:
                self._crowded = True
                self.loop.call_later(_BRIEF, self._make_room)

    def _look(self) -> None:
        """Refuse expired handshakes, regularly while there are any."""
        self._refuse_after(_PATIENCE)
        if self.strangers:
            self.loop.call_later(_LOOK, self._look)

    def _make_room(self) -> None:
        """Refuse slow handshakes while others wait."""
        self._crowded = len(self.strangers) >= self.most
        if self._crowded:
            self._refuse_after(_BRIEF)
            self.loop.call_later(_BRIEF / 4, self._make_room)

    def _refuse_after(self, allowed: float) -> None:
        for stranger in list(self.strangers.values()):
            if self.loop.time() - stranger.since < allowed:
                break
            self._refuse(stranger, f"no handshake within {allowed:g}s")

    def _heard(self, stranger: _Stranger) -> None:
        with guarded(self.listener.note, lambda: self._refuse(stranger)):
            try:
                data = stranger.sock.recv(HANDSHAKE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            stranger.came += len(data)
            try:
                stranger.frames.add(data)
                fields = stranger.frames.one()
                if fields is not None:
                    self._let_in(stranger, fields)
                elif not data:
                    self._refuse(stranger)  # probably a port scan
                elif stranger.came > HANDSHAKE:
                    raise Refused("not a handshake")
            except Refused as error:
                self._refuse(stranger, str(error))

    def _let_in(self, stranger: _Stranger, fields: dict[str, object]) -> None:
        response = stranger.hands.hear(fields)
        if not stranger.frames.empty:
            raise Refused("data before the handshake is complete")
        heard = self.expect(response.node)
        if heard is None:
            raise Refused(f"node {response.node} is no longer expected")
        answer, seals = stranger.hands.welcome(self.incarnation, heard)
        with suppress(OSError):  # the peer is gone, which is detected by the reader
            stranger.sock.sendall(answer)
        self._forget(stranger)
        stranger.frames.largest, stranger.frames.seal = LARGEST, seals.into
        known = response.heard if response.incarnation == self.incarnation else 0
        self.accepted(response.node, Met(stranger.sock.detach(), stranger.frames, known, seals.out))

    def _refuse(self, stranger: _Stranger, why: str = "") -> None:
        """Close this connection, and note `why` unless that is nothing unusual."""
        if why:
            with suppress(OSError, IndexError):
                address = str(stranger.sock.getpeername()[0]).removeprefix("::ffff:")  # IPv4 on a dual-stack socket
                self.listener.note(f"connection from {address} refused: {why}")
        self._forget(stranger)
        stranger.sock.close()

    def _forget(self, stranger: _Stranger) -> None:
        """Forget a connection that was accepted or closed."""
        if self.strangers.pop(stranger.sock, None) is None:
            return
        self.loop.remove_reader(stranger.sock)
        self.listener.resume()
