"""A conversation that survives its connections: nothing is lost, nothing is duplicated."""

from __future__ import annotations

import os
import random
import socket

import pytest

from muster.protocol.channel import Channel
from muster.protocol.frames import encode_frame


class Ends:
    """Two channels and the connection between them, which can be broken with bytes in transit."""

    def __init__(self) -> None:
        self.a, self.b = Channel(keeps=True), Channel(keeps=True)
        self.heard: dict[Channel, list[int]] = {self.a: [], self.b: []}
        self.join()

    def join(self) -> None:
        """Make a new connection."""
        one, other = socket.socketpair()
        for wire, sock, heard in ((self.a, one, self.b.received), (self.b, other, self.a.received)):
            sock.setblocking(False)
            wire.connect(sock.fileno(), os.dup(sock.detach()), heard=heard)

    def cut(self) -> None:
        """Break it: bytes in transit are lost."""
        for wire in (self.a, self.b):
            os.close(wire.reading)
            os.close(wire.writing)
            wire.disconnect()

    def say(self, wire: Channel, number: int) -> None:
        wire.send(encode_frame("say", b"x" * (number % 3000), number=number))

    def turn(self, wire: Channel) -> None:
        """Let one end write and read as much as possible."""
        wire.flush()
        for fields, payload in wire.read() or []:
            assert len(payload) == fields["number"] % 3000
            self.heard[wire].append(fields["number"])
        wire.flush()

    def settle(self) -> None:
        """Repeat until both have everything."""
        for _ in range(1000):
            self.turn(self.a)
            self.turn(self.b)
            if self.a.idle and self.b.idle:
                return
        raise AssertionError("they never come to rest")


def test_messages_are_received_once_and_in_order() -> None:
    ends = Ends()
    for number in range(100):
        ends.say(ends.a, number)
    ends.settle()
    assert list(range(100)) == ends.heard[ends.b]
    ends.cut()


def test_messages_without_a_connection_are_received_over_the_next() -> None:
    ends = Ends()
    ends.cut()
    ends.say(ends.a, 1)
    ends.say(ends.b, 2)
    assert not ends.a.idle
    ends.join()
    ends.settle()
    assert ([1], [2]) == (ends.heard[ends.b], ends.heard[ends.a])
    ends.cut()


@pytest.mark.parametrize("seed", range(20))
def test_connections_that_break_at_any_moment(seed: int) -> None:
    chance, ends = random.Random(seed), Ends()
    said: dict[Channel, int] = {ends.a: 0, ends.b: 0}
    for _ in range(400):
        wire = chance.choice((ends.a, ends.b))
        what = chance.random()
        if what < 0.5:
            ends.say(wire, said[wire])
            said[wire] += 1
        elif what < 0.9:
            ends.turn(wire)
        else:
            ends.cut()
            ends.join()
    ends.settle()
    assert list(range(said[ends.a])) == ends.heard[ends.b]
    assert list(range(said[ends.b])) == ends.heard[ends.a]
    ends.cut()


def test_a_new_peer_starts_from_the_beginning() -> None:
    ends = Ends()
    ends.say(ends.a, 7)
    ends.cut()
    ends.a.reset()
    ends.b = Channel(keeps=True)
    ends.heard[ends.b] = []
    ends.join()
    ends.say(ends.a, 8)
    ends.settle()
    assert [8] == ends.heard[ends.b]
    ends.cut()


def test_an_unreliable_channel_keeps_nothing() -> None:
    """The channel of a run in the terminal ends with its connection."""
    wire = Channel()
    wire.send(encode_frame("say"))
    assert wire.idle, "no connection, nobody to tell"


def test_a_broken_connection_is_seen_where_it_is_read() -> None:
    ends = Ends()
    os.close(ends.b.reading)
    os.close(ends.b.writing)
    ends.b.disconnect()
    ends.say(ends.a, 1)
    assert not ends.a.flush()
    assert ends.a.read() is None
    assert not ends.a.timed_out
    os.close(ends.a.reading)
    os.close(ends.a.writing)
