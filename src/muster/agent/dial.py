"""How the agents of other nodes and the supervisor on node 0 find each other: a connection by TCP, and a secret.

    supervisor            agent
    nonce       ──►
                ◄──       hello: node, proof (of the secret, by that nonce), nonce of its own, what it has heard
    welcome     ──►       proof by that nonce, which supervisor this is, what it has heard

The secret itself is never sent. Whether the other machine is there is for the kernel to say, by TCP's own probes: a
process that waits for a disk is not lost.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import os
import selectors
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from muster.agent.protocol import Unpacker, pack

if TYPE_CHECKING:
    from muster.agent.agent import Agent

_GONE_AFTER = 10
"""Seconds without a sign of the other kernel after which a connection is broken."""
_PAUSE = 0.5
_PATIENCE = 5.0
"""Seconds between two trials, and for one."""


def prove(secret: str, nonce: str, node: int) -> str:
    """What only who knows the secret can say about a nonce."""
    return hmac.new(secret.encode(), f"{nonce} {node}".encode(), hashlib.sha256).hexdigest()


def right(proof: object, secret: str, nonce: str, node: int) -> bool:
    """It is that proof."""
    return hmac.compare_digest(str(proof), prove(secret, nonce, node))


def new_nonce() -> str:
    """Something that was never said before."""
    return os.urandom(16).hex()


def watch_over(sock: socket.socket) -> None:
    """Have the kernel find out when the other machine is gone."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _GONE_AFTER * 1000)


class Dialer:
    """An agent's way to its supervisor, tried again until it is found."""

    def __init__(self, agent: Agent, address: str, port: int, secret: str, node: int):
        self.agent, self.where, self.secret, self.node = agent, (address, port), secret, node
        self.life = ""
        """Which supervisor was spoken to last."""
        self._sock: socket.socket | None = None
        self._trial = 0

    def dial(self) -> None:
        """Try to connect; `agent.connected` is called when that has come to an end that is good."""
        self._trial += 1
        trial = self._trial
        self._sock = sock = socket.socket()
        sock.setblocking(False)
        result = sock.connect_ex(self.where)
        if result not in (0, errno.EINPROGRESS):
            self._again()
            return
        self.agent.selector.register(sock, selectors.EVENT_WRITE, self._reached)
        self.agent.after(_PATIENCE, lambda: self._again() if trial == self._trial and self._sock is sock else None)

    def _again(self) -> None:
        """This trial has failed; make another in a moment."""
        sock, self._sock = self._sock, None
        if sock is not None:
            with contextlib.suppress(KeyError):
                self.agent.selector.unregister(sock)
            sock.close()
        self.agent.after(_PAUSE, self.dial)

    def _reached(self) -> None:
        sock = self._sock
        assert sock is not None
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._again()
            return
        watch_over(sock)
        frames, mine = Unpacker(), new_nonce()
        self.agent.selector.modify(sock, selectors.EVENT_READ, lambda: self._heard(sock, frames, mine))

    def _heard(self, sock: socket.socket, frames: Unpacker, mine: str) -> None:
        try:
            data = sock.recv(1 << 16)
            heard = frames.feed(data)
        except (OSError, ValueError):
            data = b""
        if not data:
            self._again()
            return
        for number, (fields, _) in enumerate(heard):
            if fields["kind"] == "nonce":
                hello: Mapping[str, Any] = {
                    "node": self.node,
                    "proof": prove(self.secret, fields["nonce"], self.node),
                    "nonce": mine,
                    "life": self.life,
                    "heard": self.agent.wire.heard,
                }
                sock.sendall(pack("hello", **hello))
            elif fields["kind"] == "welcome" and right(fields.get("proof"), self.secret, mine, self.node):
                self.agent.selector.unregister(sock)
                self._sock = None
                same, self.life = fields["life"] == self.life, fields["life"]
                self.agent.connected(sock.detach(), same, fields["heard"], frames, heard[number + 1 :])
                return
            else:
                self._again()
                return
