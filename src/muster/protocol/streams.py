"""One end of a stream of bytes that crosses connections carrying frames. Pure: it has no socket and no clock.

The two ends count bytes. Each keeps what it has sent until the other end has passed it on, and sends at most `WINDOW`
bytes ahead of that: so a stream needs little memory wherever it waits, and it survives a process between its ends that
dies with what it had not yet forwarded.
"""

from __future__ import annotations

from typing import NamedTuple

from muster.protocol.frames import Refused

WINDOW = 1 << 16
"""Maximum number of bytes in flight, in each direction of a stream."""

_NEWS = WINDOW // 4
"""Bytes that an end passes on before it says so: most requests are small, and need no message of their own."""


class Piece(NamedTuple):
    """Bytes for the other end."""

    offset: int
    """Number of bytes that precede them in the stream."""
    data: bytes
    last: bool
    """Whether none follow."""


class Stream:
    """The end of a stream whose bytes come from one socket, and go to one."""

    def __init__(self) -> None:
        self._kept = bytearray()
        """Bytes that were sent, as far as the other end has not passed them on."""
        self._taken = 0
        """Number of bytes before those."""
        self._read_all = False
        self._received = 0
        self._told = 0
        self._last_received = False
        self.out = bytearray()
        """Received bytes that this end has not passed on yet."""

    @property
    def room(self) -> int:
        """How many bytes may be sent now."""
        return 0 if self._read_all else WINDOW - len(self._kept)

    def send(self, data: bytes) -> Piece:
        """Return the piece to send, for bytes of which there is `room`; no bytes are the end of the stream."""
        piece = Piece(self._taken + len(self._kept), data, not data)
        self._kept += data
        self._read_all = not data
        return piece

    def again(self) -> Piece:
        """Return everything that may have been lost on the way."""
        return Piece(self._taken, bytes(self._kept), self._read_all)

    def taken(self, upto: int) -> None:
        """Handle an acknowledgement of the first `upto` bytes. Raises `Refused` if they were never sent."""
        if upto > self._taken + len(self._kept):
            raise Refused("acknowledged bytes of a stream that were never sent")
        count = max(0, upto - self._taken)
        del self._kept[:count]
        self._taken += count

    def receive(self, piece: Piece) -> None:
        """Take a piece of the other end, parts of which may have arrived before. Raises `Refused` for others."""
        known = self._received - piece.offset
        if known < 0:
            raise Refused(f"a stream lacks {-known} bytes")
        more = piece.data[known:]
        if len(self.out) + len(more) > WINDOW or (self._last_received and more):
            raise Refused("more bytes of a stream than were allowed")
        self.out += more
        self._received += len(more)
        self._last_received = self._last_received or piece.last

    def passed_on(self, count: int) -> None:
        """Record that this end has written the first `count` bytes of `out` to its socket."""
        del self.out[:count]

    @property
    def upto(self) -> int:
        """How many bytes this end has passed on."""
        return self._received - len(self.out)

    def news(self, again: bool = False) -> int | None:
        """Return how many bytes this end has passed on, if the other end is to be told now, or `again`."""
        if self.upto == self._told and not again:
            return None
        if self.upto - self._told < _NEWS and not self.may_shut_down and not again:
            return None
        self._told = self.upto
        return self.upto

    @property
    def may_shut_down(self) -> bool:
        """Whether nothing more will be written to the socket of this end."""
        return self._last_received and not self.out

    @property
    def over(self) -> bool:
        """Whether both ends have passed on everything."""
        return self.may_shut_down and self._read_all and not self._kept
