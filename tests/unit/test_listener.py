"""Clients may be hostile, come in thousands, send half a message, or read nothing: only they suffer."""

from __future__ import annotations

import os
import random
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from manual_loop import ManualLoop

from muster.protocol.frames import FrameDecoder, encode_frame
from muster.protocol.listener import FirstFew, Listener, Peer


class Door:
    """A listener on an abstract socket, each connection of which is a `Peer`."""

    def __init__(self) -> None:
        self.loop = ManualLoop()
        self.notes: list[str] = []
        self.heard: list[dict[str, Any]] = []
        self.peers: list[Peer] = []
        self.gone: list[Peer] = []
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind("")  # the kernel chooses a name
        self.sock.listen(64)
        self.listener = Listener(self.loop, self.sock, self.came, self.notes.append)
        self.clients: list[socket.socket] = []

    def came(self, sock: socket.socket) -> None:
        self.peers.append(Peer(self.loop, sock, self.hear, self.gone.append, self.notes.append))

    def hear(self, peer: Peer, fields: dict[str, Any], payload: bytes) -> None:
        if fields["kind"] == "wrong":
            raise KeyError("an error of ours")
        self.heard.append(fields)

    def call(self) -> socket.socket:
        """Connect a client, which may not have been accepted yet."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.sock.getsockname())
        self.clients.append(sock)
        return sock

    def let_in(self) -> socket.socket:
        """Connect a client, and wait until it is accepted."""
        count, sock = len(self.peers), self.call()
        self.loop.until(lambda: len(self.peers) > count, "she is accepted")
        return sock

    def says(self, sock: socket.socket, number: int) -> None:
        """Send a message, and wait until it is received."""
        sock.sendall(encode_frame("say", number=number))
        self.loop.until(lambda: {"kind": "say", "number": number} in self.heard, "she is heard")

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        for sock in (self.sock, *self.clients):
            sock.close()
        self.loop.close()


@pytest.fixture
def door() -> Iterator[Door]:
    made = Door()
    yield made
    made.close()


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Let this process open no file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_descriptors_it_waits_a_moment_and_does_not_spin(door: Door) -> None:
    door.call()
    with no_more_descriptors():
        door.loop.run_once(1.0)
        assert ["cannot accept connections: Too many open files"] == door.notes
        assert not door.loop.reads(door.sock)
        door.loop.advance(0.3)
        assert 1 < len(door.notes) < 4, "now and then it tries again"
    door.loop.advance(0.3)
    door.loop.until(lambda: door.peers, "she is accepted")


def test_the_last_descriptors_are_for_the_run(door: Door) -> None:
    door.listener.last = 0
    sock = door.call()
    door.loop.run_once(1.0)
    assert b"" == sock.recv(1)
    assert ["refusing connections: too few file descriptors left"] == door.notes
    door.listener.last = 1 << 20
    door.loop.advance(0.3)
    door.let_in()


def test_an_error_in_one_connection_ends_it_and_no_other(door: Door) -> None:
    good, bad = door.let_in(), door.let_in()
    bad.sendall(encode_frame("say", number=1) + encode_frame("wrong") + encode_frame("say", number=2))
    door.loop.until(lambda: door.gone, "she is sent away")
    assert b"" == bad.recv(1)
    assert [{"kind": "say", "number": 1}] == door.heard, "and nothing of what came after it is heard"
    (note,) = door.notes
    assert note.startswith("closed a connection: KeyError: 'an error of ours' (hear, line ")
    door.says(good, 3)


def test_an_error_while_accepting_a_connection_affects_no_other_one(door: Door) -> None:
    came = door.came

    def fails(sock: socket.socket) -> None:
        door.listener._came = came
        raise ValueError("an error of ours")

    door.listener._came = fails
    first = door.call()
    door.loop.until(lambda: door.notes, "it is noted")
    assert b"" == first.recv(1)
    door.says(door.let_in(), 1)


def test_random_bytes_end_their_connection_and_nothing_else(door: Door) -> None:
    good, chance = door.let_in(), random.Random(3)
    for number in range(50):
        bad = door.let_in()
        frame = bytearray(encode_frame("say", chance.randbytes(20), number=number))
        for _ in range(3):
            frame[chance.randrange(8 if number % 2 else len(frame))] = chance.randrange(256)
        bad.sendall(frame if number % 3 else chance.randbytes(100))
        bad.shutdown(socket.SHUT_WR)
        door.loop.until(lambda number=number: len(door.gone) > number, "she is sent away")  # type: ignore[misc]
    door.says(good, -1)
    assert 51 == len(door.peers) and 50 == len(set(door.gone))


def test_a_client_that_stalls_within_a_frame_blocks_nothing(door: Door) -> None:
    stalls, good = door.let_in(), door.let_in()
    frame = encode_frame("say", b"x" * 5000, number=1)
    stalls.sendall(frame[:4000])
    door.says(good, 2)
    stalls.sendall(frame[4000:])
    door.loop.until(lambda: len(door.heard) == 2, "the rest of it")
    assert [] == door.notes


def test_a_client_that_reads_nothing_blocks_nothing_and_gets_everything_later(door: Door) -> None:
    stalls, good = door.let_in(), door.let_in()
    slow, quick = door.peers
    for number in range(100):
        slow.send(encode_frame("event", b"x" * 50_000, number=number))
        quick.send(encode_frame("event", number=number))
    assert len(slow.out) > 1_000_000 and not quick.out
    frames = FrameDecoder()
    assert list(range(100)) == [fields["number"] for fields, _ in frames.feed(good.recv(1 << 20))]
    stalls.setblocking(False)
    found: list[int] = []

    def come() -> bool:
        try:
            found.extend(fields["number"] for fields, _ in frames.feed(stalls.recv(1 << 20)))
        except BlockingIOError:
            pass
        return len(found) == 100

    door.loop.until(come, "all has come")
    assert list(range(100)) == found and not slow.out


def test_clients_that_left_are_reported_once(door: Door) -> None:
    sock = door.let_in()
    (peer,) = door.peers
    peer.send(encode_frame("event"))
    sock.close()
    for _ in range(3):
        peer.send(encode_frame("event", b"x" * 1_000_000))
    door.loop.until(lambda: not peer.open, "that is seen")
    peer.send(encode_frame("event"))
    peer.close()
    assert [peer] == door.gone


def test_the_first_of_many_rejections_are_reported() -> None:
    told: list[str] = []
    note = FirstFew(told.append)
    for number in range(1000):
        note(str(number))
    assert [*map(str, range(9)), "9; more are not reported"] == told
