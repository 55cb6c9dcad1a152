"""A stream between two sockets loses and doubles nothing, holds little, and rejects what cannot be."""

from __future__ import annotations

from random import Random

import pytest

from muster.protocol.frames import Refused
from muster.protocol.streams import WINDOW, Piece, Stream


class Way:
    """One direction of a stream: bytes of a source, the messages under way, and what has arrived at the target."""

    def __init__(self, data: bytes) -> None:
        self.source, self.target = data, b""
        self.near, self.far = Stream(), Stream()
        self.pieces: list[Piece] = []
        self.news: list[int] = []
        self.read_all = False

    def step(self, random: Random) -> None:
        """Do one of the things that can happen next."""
        what = random.choice(("read", "deliver", "write", "tell"))
        if what == "read" and self.near.room:
            count = random.randint(1, min(self.near.room, 40000))
            data, self.source = self.source[:count], self.source[count:]
            self.pieces.append(self.near.send(data))
        elif what == "deliver" and self.pieces:
            self.far.receive(self.pieces.pop(0))
            self.tell()
        elif what == "write" and self.far.out:
            count = random.randint(1, len(self.far.out))
            self.target += self.far.out[:count]
            self.far.passed_on(count)
            self.tell()
        elif what == "tell" and self.news:
            self.near.taken(self.news.pop(0))
        assert sum(len(piece.data) for piece in self.pieces) + len(self.far.out) <= WINDOW

    def tell(self) -> None:
        news = self.far.news()
        if news is not None:
            self.news.append(news)

    def lose(self, random: Random) -> None:
        """Let what is between the ends be lost, up to a point, and both of them repeat what they have to say."""
        del self.pieces[random.randint(0, len(self.pieces)) :], self.news[random.randint(0, len(self.news)) :]
        for piece in self.pieces:
            self.far.receive(piece)
        for upto in self.news:
            self.near.taken(upto)
        self.pieces, self.news = [self.near.again()], [self.far.news(again=True) or 0]


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_or_doubled_when_what_is_between_the_ends_dies(seed: int) -> None:
    random = Random(seed)
    data = random.randbytes(random.choice((0, 1, 1000, 3 * WINDOW + 17)))
    way = Way(data)
    for _ in range(100000):
        way.step(random)
        if random.random() < 0.002:
            way.lose(random)
        if way.far.may_shut_down:
            break
    assert way.target == data
    for upto in way.news:
        way.near.taken(upto)
    assert (WINDOW, False) == (len(way.near.again().data) + WINDOW, way.near.over), "only one direction has ended"


def test_a_stream_is_over_when_both_ends_have_passed_on_everything() -> None:
    here, there = Stream(), Stream()
    there.receive(here.send(b"ping"))
    there.receive(here.send(b""))
    assert not there.may_shut_down, "its socket has not taken `ping` yet"
    there.passed_on(4)
    here.taken(there.upto)
    assert there.may_shut_down and not there.over
    here.receive(there.send(b""))
    assert here.over and there.over


@pytest.mark.parametrize(
    "piece",
    [Piece(1, b"x", False), Piece(1 << 61, b"", False), Piece(0, b"x" * (WINDOW + 1), False)],
    ids=["a gap", "an offset without end", "more than was allowed"],
)
def test_a_piece_that_cannot_be_is_rejected(piece: Piece) -> None:
    stream = Stream()
    with pytest.raises(Refused):
        stream.receive(piece)
    assert (b"", 0) == (bytes(stream.out), stream.upto)


def test_bytes_after_the_last_and_impossible_acknowledgements_are_rejected() -> None:
    stream = Stream()
    stream.receive(Piece(0, b"", True))
    with pytest.raises(Refused):
        stream.receive(Piece(0, b"more", False))
    stream.send(b"ab")
    stream.taken(2)
    stream.taken(1)  # one that was repeated
    with pytest.raises(Refused):
        stream.taken(3)


def test_small_requests_are_not_acknowledged_one_by_one() -> None:
    here, there = Stream(), Stream()
    told = []
    for _ in range(1000):
        there.receive(here.send(b"x" * 100))
        there.passed_on(100)
        news = there.news()
        if news is not None:
            told.append(news)
            here.taken(news)
    assert 2 <= len(told) <= 10
    there.receive(here.send(b""))
    assert 100000 == there.news(), "the end is told at once"
    assert there.news() is None and 100000 == there.news(again=True)
