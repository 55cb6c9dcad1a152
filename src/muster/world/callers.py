"""Agents that call by TCP: whoever knows the secret is let in (`agent/dial.py` has the words)."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable, Mapping
from typing import Any

from muster.agent import dial
from muster.agent.protocol import Unpacker, pack

_STRANGE = 1 << 16
"""Bytes without a whole frame after which somebody is no agent: a stranger is to take no memory."""


class Callers:
    """A port, and what is asked of who calls there.

    `knows(node)` gives how many frames of a node were heard, or None when nobody of that number is awaited;
    `came(node, descriptor, frames, heard)` takes over a connection: `heard` is what the agent has of ours.
    """

    def __init__(
        self,
        listener: socket.socket,
        secret: str,
        life: str,
        knows: Callable[[int], int | None],
        came: Callable[[int, int, Unpacker, int], object],
    ):
        self.listener, self.secret, self.life, self.knows, self.came = listener, secret, life, knows, came
        listener.setblocking(False)

    def watch(self, selector: selectors.BaseSelector) -> None:
        """Let them call; each thing that happens is a call of what is registered."""
        selector.register(self.listener, selectors.EVENT_READ, lambda: self._called(selector))

    def _called(self, selector: selectors.BaseSelector) -> None:
        try:
            sock, _ = self.listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        dial.watch_over(sock)
        nonce, frames = dial.new_nonce(), Unpacker()
        try:
            sock.send(pack("nonce", nonce=nonce))
        except OSError:  # it has gone already: somebody who looks which ports are open
            sock.close()
            return
        came = 0

        def heard() -> None:
            nonlocal came
            try:
                data = sock.recv(1 << 16)
                came += len(data)
                found = frames.feed(data)
            except (OSError, ValueError, RecursionError):
                data, found = b"", []
            if data and not found and came < _STRANGE:
                return
            selector.unregister(sock)
            try:
                known = bool(found) and isinstance(found[0][0], dict) and self._let_in(sock, found[0][0], nonce, frames)
            except (OSError, KeyError):
                known = False
            if not known:
                sock.close()

        selector.register(sock, selectors.EVENT_READ, heard)

    def _let_in(self, sock: socket.socket, hello: Mapping[str, Any], nonce: str, frames: Unpacker) -> bool:
        node = hello.get("node")
        if not isinstance(node, int) or not dial.right(hello.get("proof"), self.secret, nonce, node):
            return False
        known = self.knows(node)
        if known is None:
            return False
        proof = dial.prove(self.secret, hello["nonce"], node)
        sock.send(pack("welcome", proof=proof, life=self.life, heard=known))
        self.came(node, sock.detach(), frames, hello["heard"] if hello["life"] == self.life else 0)
        return True
