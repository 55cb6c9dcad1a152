"""Connections from the agents of other nodes to the controller on node 0: TCP, authenticated by a secret.

`protocol/handshake.py` has the messages. Whether the other machine is alive is left to the kernel, by TCP keepalive: a
process that waits for a disk is not lost.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import NamedTuple

from muster.linux import hardware
from muster.linux.eventloop import EventLoop, Timer
from muster.protocol.frames import LARGEST, FrameDecoder, Refused
from muster.protocol.handshake import AgentSide, Seal, Terms
from muster.protocol.listener import FirstFew

_GONE_AFTER = 10
"""Seconds without a sign of the other kernel after which a connection is broken."""
_PAUSE = 0.5
_PATIENCE = 5.0
"""Seconds between two attempts to connect, and for one of them."""
_SILENCE = 30.0
"""Seconds for the first answer on a connection. It waits in the kernel's queue until the controller has started, which
takes many seconds on a busy machine."""

HANDSHAKE = 4096
"""Maximum size in bytes of a message of the handshake, and of what a peer may send before it is authenticated."""


class Met(NamedTuple):
    """A connection whose ends have proved to each other that they know the secret."""

    fd: int
    frames: FrameDecoder
    """May hold bytes already."""
    heard: int
    """Number of our frames that the other end has received."""
    seal: Seal | None
    """Computes the MACs of outgoing frames."""


def enable_keepalive(sock: socket.socket) -> None:
    """Let the kernel detect that the other machine is gone."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _GONE_AFTER * 1000)


class ControllerDialer:
    """An agent's connection to its controller, retried until it succeeds.

    `heard` returns how many frames of the controller were received; `connected` is called with an authenticated
    connection and whether it is to the same controller as the last one; `complain` with the reason why another peer was
    rejected.
    """

    def __init__(
        self,
        loop: EventLoop,
        address: str,
        port: int,
        terms: Terms,
        node: int,
        heard: Callable[[], int],
        connected: Callable[[Met, bool], object],
        complain: Callable[[str], object],
    ) -> None:
        self.loop, self.where, self.terms, self.node = loop, (address, port), terms, node
        self._frames_heard, self._connected = heard, connected
        self.incarnation = ""
        """Identifies the controller that it was last connected to."""
        self._sock: socket.socket | None = None
        self._patience: Timer | None = None
        self.reached = False
        """Whether the host of the controller has accepted the connection: its port is open, so its agent runs."""
        self._note = FirstFew(complain)

    def dial(self) -> None:
        """Try to connect, until it succeeds."""
        self._sock = sock = hardware.tcp_socket(self.where[0])
        sock.setblocking(False)
        result = sock.connect_ex(self.where)
        if result not in (0, errno.EINPROGRESS):
            self._again()
            return
        self.loop.add_writer(sock, self._reached)
        self._patience = self.loop.call_later(_PATIENCE, self._again)

    def _part(self) -> socket.socket:
        """End this attempt and return its socket."""
        sock, self._sock, self.reached = self._sock, None, False
        assert sock is not None
        self.loop.remove(sock)
        if self._patience is not None:
            self._patience.cancel()
        return sock

    def _again(self) -> None:
        """Try again in a moment: this attempt failed."""
        self._part().close()
        self.loop.call_later(_PAUSE, self.dial)

    def _reached(self) -> None:
        sock = self._sock
        assert sock is not None
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._again()
            return
        enable_keepalive(sock)
        self.reached = True
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self.loop.call_later(_SILENCE, self._again)
        frames = FrameDecoder(HANDSHAKE)
        caller = AgentSide(self.terms, self.node, self.incarnation, self._frames_heard())
        self.loop.remove_writer(sock)
        self.loop.add_reader(sock, lambda: self._heard(sock, frames, caller))

    def _heard(self, sock: socket.socket, frames: FrameDecoder, caller: AgentSide) -> None:
        """Continue the handshake; reject a peer that does not answer as the controller does."""
        try:
            data = sock.recv(HANDSHAKE)
            frames.add(data)
            fields = frames.one()
            if fields is not None and fields["kind"] == "challenge":
                sock.sendall(caller.answer(fields))
                fields = frames.one()
            if fields is None:
                if not data:
                    self._again()
                return
            welcome, seals = caller.hear(fields)
        except BlockingIOError:
            return
        except Refused as error:
            self._note(f"the process listening at {self.where[0]} is not the controller: {error}")
            self._again()
            return
        except OSError:
            self._again()
            return
        self._part()
        frames.largest, frames.seal = LARGEST, seals.into
        same, self.incarnation = welcome.incarnation == self.incarnation, welcome.incarnation
        self._connected(Met(sock.detach(), frames, welcome.heard, seals.out), same)
