"""Receiving an environment on a host, and passing it on to other hosts while it comes.

    muster ──ssh──► n1 ──TCP──► n2, n3 ──TCP──► n4, n5, n6, n7

The hosts form a tree, so muster sends one copy, and each host at most two. What is not needed at once is kept nowhere:
a host unpacks each piece and passes it on. The TCP connections are authenticated as those of a run are.
"""

from __future__ import annotations

import os
import platform
import queue
import secrets
import socket
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from muster.agent import env_store
from muster.agent.dialer import enable_keepalive
from muster.agent.facts import probe_addresses
from muster.linux import hardware, processes
from muster.protocol.channel import Emit
from muster.protocol.frames import FrameDecoder, Refused, encode_frame
from muster.protocol.handshake import AgentSide, ControllerSide, Terms

_WAITING = 8
"""Pieces that wait for a child or for the disk."""
_BEHIND, _EVEN = 6, 1
"""Pieces that wait for the disk where it counts as slower than what arrives, and where it no longer does."""
_STALLED = 120.0
"""Seconds after which a child that takes nothing is left behind."""
_GREETING = 4096
_READ = 1 << 18
_PIECE = 1 << 20

Piece = tuple[bytes, bool, bool]
"""Bytes, whether they are compressed, and whether they are the last."""


def facts(
    env: Mapping[str, str], named: str, usual: str, version: str, folder: str, paths: Sequence[str]
) -> dict[str, Any]:
    """Return what this host has for an environment; `failed` is the reason why none can be kept."""
    told = {
        "machine": platform.machine(),
        "base": env_store.find_base(named, usual, version) if usual else "",
        "absent": [path for path in paths if not os.path.exists(path)],
        "root": env_store.root_of(folder, env),
    }
    try:
        root = env_store.open_root(folder, env)
        env_store.remove_old(root)
        details = os.statvfs(root)
    except OSError as error:
        return {**told, "known": [], "free": 0, "failed": processes.reason_at(error)}
    return {**told, "known": env_store.complete(root), "free": details.f_bavail * details.f_frsize, "failed": ""}


class EnvTransfer:
    """One environment that comes to this host."""

    def __init__(self, emit: Emit, soon: Callable[[Callable[[], object]], object], part: env_store.Part, secret: str):
        """`emit` is called in the thread of the loop, by `soon`."""
        self.emit, self._soon, self.part = emit, soon, part
        self._terms = Terms(secret, part.address)
        self._own: queue.Queue[Piece] = queue.Queue(_WAITING)
        self._children: list[queue.Queue[Piece]] = []
        self._listener = hardware.listen()
        self.port: int = self._listener.getsockname()[1]
        self._failed = threading.Event()
        self._behind = False
        processes.start_thread(self._unpack)
        processes.start_thread(self._accept)

    def close(self) -> None:
        """Remove what is not complete."""
        self._refuse_more()
        if not self._failed.is_set():
            self._failed.set()
            self.part.discard()

    def _refuse_more(self) -> None:
        """Stop listening: all hosts that get it from here are connected before the first piece comes."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # ends the accept of the other thread

    # ---- its own copy -----------------------------------------------------------------------------------------------

    def take(self, piece: Piece) -> None:
        """Take a piece, and wait until there is room for it here and with the children that keep up."""
        for child in list(self._children):
            if not _put(child, piece):
                self._children.remove(child)
        if not self._failed.is_set():
            _put(self._own, piece)
            waiting = self._own.qsize()
            if waiting >= _BEHIND if not self._behind else waiting <= _EVEN:
                self._behind = behind = not self._behind
                self._soon(lambda: self.emit("env_behind", behind=behind))

    def _unpack(self) -> None:
        buffer, ended = bytearray(), False

        def read(count: int) -> bytes:
            nonlocal ended
            while len(buffer) < count:
                if ended:
                    raise ValueError("the stream ended too early")
                data, packed, ended = self._own.get()
                buffer.extend(zlib.decompress(data) if packed else data)
            found = bytes(buffer[:count])
            del buffer[:count]
            return found

        try:
            python = self.part.unpack(read)
        except (OSError, ValueError, zlib.error) as error:
            self._fail(processes.reason_at(error))
        else:
            self._failed.set()
            self._refuse_more()
            self._tell(path=python, failed="")

    def _fail(self, why: str) -> None:
        if not self._failed.is_set():
            self._failed.set()
            self._refuse_more()
            self.part.discard()
            with suppress(queue.Empty):
                while True:
                    self._own.get_nowait()  # let a waiting `take` continue
            self._tell(path="", failed=why)

    def _tell(self, **fields: Any) -> None:
        self._soon(lambda: self.emit("env_ready", **fields))

    # ---- children ---------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                self._listener.close()
                return
            with suppress(OSError):
                processes.start_thread(lambda sock=sock: self._serve(sock))  # type: ignore[misc]

    def _serve(self, sock: socket.socket) -> None:
        """Send a child all that comes."""
        sock.settimeout(_STALLED)
        side, frames = ControllerSide(self._terms), FrameDecoder(_GREETING)
        waiting: queue.Queue[Piece] = queue.Queue(_WAITING)
        try:
            sock.sendall(side.challenge())
            side.hear(_one(sock, frames))
            welcome, seals = side.welcome("", 0)
            self._children.append(waiting)
            sock.sendall(welcome)
            last = False
            while not last:
                data, packed, last = waiting.get()
                frame = encode_frame("env_piece", data, packed=packed, last=last)
                sock.sendall(frame)
                sock.sendall(seals.out.tag(frame))
        except (OSError, Refused):
            with suppress(ValueError):
                self._children.remove(waiting)
            with suppress(queue.Empty):
                waiting.get_nowait()
        finally:
            sock.close()

    # ---- the parent -------------------------------------------------------------------------------------------------

    def fetch(self, addresses: Sequence[str], port: int, patience: float) -> str:
        """Connect to another host that sends the environment; return why that is impossible."""
        ways = probe_addresses(addresses, port, patience)
        good = [address for address in addresses if "error" not in ways[address]]
        if not good:
            return next((way["error"] for way in ways.values()), "no address")
        sock = hardware.tcp_socket(good[0])
        try:
            sock.settimeout(patience)
            sock.connect((good[0], port))
            side, frames = AgentSide(self._terms, 0, secrets.token_hex(8), 0), FrameDecoder(_GREETING)
            sock.sendall(side.answer(_one(sock, frames)))
            _, seals = side.hear(_one(sock, frames))
        except (OSError, Refused) as error:
            sock.close()
            return processes.reason(error)
        frames.largest, frames.seal = 4 * _PIECE, seals.into
        processes.start_thread(lambda: self._receive(sock, frames))
        return ""

    def _receive(self, sock: socket.socket, frames: FrameDecoder) -> None:
        sock.settimeout(None)
        enable_keepalive(sock)
        last = False
        try:
            found = frames.feed(b"")
            while not last:
                for fields, payload in found:
                    last = bool(fields.get("last"))
                    self.take((payload, bool(fields.get("packed")), last))
                if not last:
                    data = sock.recv(_READ)
                    if not data:
                        raise ConnectionError("the host that sends it closed the connection")
                    found = frames.feed(data)
        except (OSError, Refused) as error:
            self._fail(f"transfer interrupted: {processes.reason(error)}")
        finally:
            sock.close()


def _put(waiting: queue.Queue[Piece], piece: Piece) -> bool:
    """Put a piece into a queue; return False if nothing is taken from it."""
    try:
        waiting.put(piece, timeout=_STALLED)
    except queue.Full:
        return False
    return True


def _one(sock: socket.socket, frames: FrameDecoder) -> dict[str, Any]:
    """Return the next message of a handshake."""
    while (fields := frames.one()) is None:
        data = sock.recv(_GREETING)
        if not data:
            raise ConnectionError("connection closed")
        frames.add(data)
    return fields
