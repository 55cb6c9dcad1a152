"""The TCP port of a run accepts only agents that know its secret. In one process."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from manual_loop import ManualLoop

from muster.agent.dialer import ControllerDialer, Met
from muster.controller.agent_listener import AgentListener
from muster.protocol.frames import FrameDecoder, encode_frame
from muster.protocol.handshake import AgentSide, Terms

TERMS = Terms("5ec2e7" * 8, "20261127-000000-abcdef-train")


class Port:
    """A port for agents, and the connections that were accepted."""

    def __init__(self) -> None:
        self.loop = ManualLoop()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.came: list[tuple[int, Met]] = []
        self.notes: list[str] = []
        self.callers = AgentListener(
            self.loop,
            self.listener,
            TERMS,
            "life",
            lambda node: 3 if node == 1 else None,
            lambda node, met: self.came.append((node, met)),
            self.notes.append,
        )
        self.sockets: list[socket.socket] = []

    def call(self) -> socket.socket:
        """Connect, and receive the challenge."""
        sock = socket.create_connection(self.listener.getsockname())
        self.sockets.append(sock)
        count = len(self.callers.strangers)
        self.loop.until(lambda: len(self.callers.strangers) > count, "she is heard")
        return sock

    def hello(self, sock: socket.socket, terms: Terms = TERMS, node: int = 1) -> bytes:
        """Answer the challenge on this connection with that secret."""
        (fields, _), *_ = FrameDecoder().feed(sock.recv(4096))
        return AgentSide(terms, node, "", 0).answer(fields)

    def closed(self, sock: socket.socket) -> None:
        """Return whether the other end has closed the connection."""
        sock.setblocking(False)

        def gone() -> bool:
            try:
                return sock.recv(4096) == b""
            except ConnectionResetError:
                return True
            except BlockingIOError:
                return False

        self.loop.until(gone, "she is sent away")

    def dial(self, terms: Terms) -> list[Met]:
        """Start an agent's dialer; return the connections that it accepts as the controller's."""
        met: list[Met] = []

        def connected(new: Met, same: bool) -> None:
            met.append(new)

        ControllerDialer(
            self.loop, *self.listener.getsockname(), terms, 1, lambda: 7, connected, self.notes.append
        ).dial()
        return met

    def close(self) -> None:
        self.callers.close()
        for sock in (self.listener, *self.sockets):
            sock.close()
        for _, met in self.came:
            os.close(met.fd)
        self.loop.close()


@pytest.fixture
def port() -> Iterator[Port]:
    made = Port()
    yield made
    made.close()


def test_peers_with_the_secret_are_accepted(port: Port) -> None:
    """Both ends also learn how much the other one has received, if they were connected before."""
    met = port.dial(TERMS)
    port.loop.until(lambda: met and port.came, "both have met")
    assert [(1, 0)] == [(node, there.heard) for node, there in port.came], "another life of the controller"
    assert (3, [], {}) == (met[0].heard, port.notes, port.callers.strangers)
    os.close(met[0].fd)


@pytest.mark.parametrize(
    ("terms", "node", "why"),
    [
        pytest.param(TERMS._replace(secret="0" * 48), 1, "wrong secret", id="another secret"),
        pytest.param(TERMS._replace(run_id="20261127-000000-abcdef"), 1, "wrong secret", id="another run"),
        pytest.param(TERMS, 2, "node 2 is no longer expected", id="a node of no run"),
    ],
)
def test_peers_without_the_secret_are_rejected(port: Port, terms: Terms, node: int, why: str) -> None:
    sock = port.call()
    sock.sendall(port.hello(sock, terms, node))
    port.closed(sock)
    assert (1, []) == (len(port.notes), port.came)
    assert port.notes[0].startswith("connection from 127.0.0.1 refused: ") and why in port.notes[0]


def test_what_was_heard_of_an_agent_is_worth_nothing_on_another_connection(port: Port) -> None:
    first = port.call()
    hello = port.hello(first)
    second = port.call()
    second.sendall(hello)
    port.closed(second)
    assert "wrong secret" in port.notes[0]
    first.sendall(hello)
    port.loop.until(lambda: port.came, "on its own it counts")


def test_random_bytes_end_their_connection_and_nothing_else(port: Port) -> None:
    chance = random.Random(5)
    good = encode_frame("response", node=1, nonce="ab" * 32, incarnation="", heard=0, mac="cd" * 32)
    for number in range(60):
        sock = port.call()
        data = bytearray(chance.randbytes(chance.randrange(1, 300)) if number % 2 else good)
        for _ in range(number % 7):
            data[chance.randrange(len(data))] = chance.randrange(256)
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        port.closed(sock)
    assert ([], {}) == (port.came, port.callers.strangers)
    assert 10 == len(port.notes), "and of so many only the first ones are told"


def test_stalled_peers_are_disconnected_in_time(port: Port) -> None:
    """One that sends nothing, and one that sends a byte now and then."""
    silent, drips = port.call(), port.call()
    for byte in b"\0\0\0\x40":
        drips.sendall(bytes([byte]))
        port.loop.advance(1.1)
    assert 2 == len(port.callers.strangers)
    port.loop.advance(1.2)
    assert {} == port.callers.strangers
    assert ["connection from 127.0.0.1 refused: no handshake within 5s"] * 2 == port.notes
    port.closed(silent)


def test_many_stalled_connections_do_not_keep_agents_out(port: Port) -> None:
    """As many as are handled at once, and more that wait; idle ones make room for the next ones."""
    for _ in range(port.callers.most):
        port.call()
    waiting: list[Any] = [socket.create_connection(port.listener.getsockname()) for _ in range(20)]
    port.sockets += waiting
    met = port.dial(TERMS)
    for _ in range(200):
        port.loop.advance(0.1, 0.05)
        if met:
            break
    assert met, "the agent is let in"
    assert len(port.callers.strangers) <= port.callers.most
    os.close(met[0].fd)
