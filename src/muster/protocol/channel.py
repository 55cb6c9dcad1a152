"""One end of a conversation in frames, which outlives the connections that carry it.

A wire that `keeps` numbers its frames and holds each until the other end has said that it has it. When a connection
breaks, both ends tell over the next one how many they have heard, and what was lost is sent again: nothing is lost,
nothing comes twice.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from muster.protocol.frames import FrameDecoder, Refused, encode_frame

if TYPE_CHECKING:
    from muster.linux.eventloop import EventLoop
    from muster.protocol.handshake import Seal
    from muster.protocol.trace import Tracer

_PIECE = 1 << 18


class Emit(Protocol):
    """Sends a frame to the supervisor."""

    def __call__(self, kind: str, payload: bytes = b"", **fields: Any) -> None:
        """Of this kind, with these fields."""


class Channel:
    """Frames out, frames in, over descriptors that do not block; -1 while there are none."""

    def __init__(self, reading: int = -1, writing: int = -1, keeps: bool = False):
        self.reliable = keeps
        self.reading, self.writing = reading, writing
        self.out = bytearray()
        """What the present connection is still to take."""
        self.received = 0
        """How many frames have come."""
        self.timed_out = False
        """The last connection broke because nothing was heard of the other machine any more."""
        self.refused = ""
        """Why what came over the last connection was no frame of the other end; empty if it was."""
        self.tracer: Tracer | None = None
        """Prints what is said, where that is wanted."""
        self._sent = 0
        self._unacked: deque[bytes] = deque()
        self._frames = FrameDecoder()
        self._seal: Seal | None = None

    @property
    def connected(self) -> bool:
        """There is a connection."""
        return self.reading >= 0

    @property
    def idle(self) -> bool:
        """The other end has everything, as far as can be known."""
        return not self.out and not self._unacked

    def send(self, frame: bytes) -> None:
        """Have a frame sent."""
        if self.tracer is not None:
            self.tracer.sent(frame)
        if self.reliable:
            self._sent += 1
            self._unacked.append(frame)
        if self.connected:
            self._emit(frame)

    def _emit(self, frame: bytes) -> None:
        self.out += frame
        if self._seal is not None:
            self.out += self._seal.tag(frame)

    def flush(self) -> bool:
        """Write what the connection takes now; False when it is broken."""
        try:
            while self.out:
                del self.out[: os.write(self.writing, self.out[:_PIECE])]
        except BlockingIOError:
            pass
        except OSError:
            self.out.clear()
            return False
        return True

    def pump(self, loop: EventLoop, again: Callable[[], object]) -> None:
        """Write what the connection takes now; while there is more, the loop calls `again` when it takes more.

        If it is broken, that is seen where it is read.
        """
        if not self.connected:
            return
        self.flush()
        if self.out:
            loop.add_writer(self.writing, again)
        else:
            loop.remove_writer(self.writing)

    def read(self) -> list[tuple[dict[str, Any], bytes]] | None:
        """The frames that have come; None at the end of the connection, and where something else than frames came."""
        try:
            data = os.read(self.reading, _PIECE)
        except BlockingIOError:
            return []
        except OSError as error:
            self.timed_out = error.errno in (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)
            return None
        return self.feed(data) if data else None

    def feed(self, data: bytes) -> list[tuple[dict[str, Any], bytes]] | None:
        """The frames that these bytes, which were read elsewhere, complete; None where they are no frames."""
        try:
            return self._take(self._frames.feed(data))
        except Refused as error:
            self.refused = str(error)
            return None

    def _take(self, frames: Iterable[tuple[dict[str, Any], bytes]]) -> list[tuple[dict[str, Any], bytes]]:
        """Count frames that came, and give those that say something."""
        found = []
        for fields, payload in frames:
            if fields["kind"] == "ack":
                self._forget(fields.get("heard"))
            else:
                if self.tracer is not None:
                    self.tracer.heard(fields, payload)
                found.append((fields, payload))
        if self.reliable and found:
            self.received += len(found)
            self._emit(encode_frame("ack", heard=self.received))
        return found

    def _forget(self, heard: object) -> None:
        """The other end has this many."""
        if type(heard) is not int or heard > self._sent:
            raise Refused("it says to have heard what was never said")
        for _ in range(max(0, len(self._unacked) - (self._sent - heard))):
            self._unacked.popleft()

    def connect(
        self, reading: int, writing: int, frames: FrameDecoder | None = None, heard: int = 0, seal: Seal | None = None
    ) -> None:
        """Go on over a new connection, on whose other end `heard` frames are known; `frames` may hold bytes of it.

        `seal` makes the MACs of the frames that go out. Raises `Refused` where `heard` cannot be.
        """
        self._forget(heard)
        self.reading, self.writing, self.timed_out, self.refused = reading, writing, False, ""
        self._frames, self._seal = frames or FrameDecoder(), seal
        self.out.clear()
        for frame in self._unacked:
            self._emit(frame)

    def disconnect(self) -> None:
        """There is no connection now."""
        self.reading = self.writing = -1
        self._seal = None
        self.out.clear()

    def reset(self) -> None:
        """The other end is another one now, which knows nothing of what was said."""
        self._unacked.clear()
        self._sent = self.received = 0
