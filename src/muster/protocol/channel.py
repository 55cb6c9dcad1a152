"""One end of a conversation in frames that survives the connections carrying it.

A `reliable` channel numbers its frames and keeps each until the peer acknowledges it. After a reconnect both ends
report how many frames they have received, and lost frames are sent again: nothing is lost or duplicated.
"""

from __future__ import annotations

import errno
import os
import select
import time
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
    """Sends a frame to the controller."""

    def __call__(self, kind: str, payload: bytes = b"", **fields: Any) -> None:
        """Send a frame of this kind with these fields."""


class Channel:
    """Sends and receives frames over non-blocking descriptors, which are -1 while disconnected."""

    def __init__(self, reading: int = -1, writing: int = -1, keeps: bool = False):
        self.reliable = keeps
        self.reading, self.writing = reading, writing
        self.out = bytearray()
        """Data that the current connection has not taken yet."""
        self.received = 0
        """Number of frames received."""
        self.timed_out = False
        """True if the last connection broke because the other machine stopped responding."""
        self.refused = ""
        """Why data from the last connection was not a valid frame; empty if it was."""
        self.tracer: Tracer | None = None
        """Prints the conversation, if that is enabled."""
        self._sent = 0
        self._unacked: deque[bytes] = deque()
        self._frames = FrameDecoder()
        self._seal: Seal | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self.reading >= 0

    @property
    def idle(self) -> bool:
        """Whether the peer has received everything, as far as is known."""
        return not self.out and not self._unacked

    def send(self, frame: bytes) -> None:
        """Send a frame."""
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
        """Write what the connection accepts now; return False if it is broken."""
        try:
            while self.out:
                del self.out[: os.write(self.writing, self.out[:_PIECE])]
        except BlockingIOError:
            pass
        except OSError:
            self.out.clear()
            return False
        return True

    def flush_within(self, seconds: float) -> None:
        """Write what is left, waiting at most so long for the connection to accept it."""
        ready = select.poll()
        ready.register(self.writing, select.POLLOUT)
        deadline = time.monotonic() + seconds
        while self.flush() and self.out and (left := deadline - time.monotonic()) > 0:
            ready.poll(left * 1000)

    def pump(self, loop: EventLoop, again: Callable[[], object]) -> None:
        """Write what the connection accepts now; if data is left, the loop calls `again` when it accepts more.

        A broken connection is detected by the reader.
        """
        if not self.connected:
            return
        self.flush()
        if self.out:
            loop.add_writer(self.writing, again)
        else:
            loop.remove_writer(self.writing)

    def read(self) -> list[tuple[dict[str, Any], bytes]] | None:
        """Return the received frames; None at the end of the connection, and for invalid data."""
        try:
            data = os.read(self.reading, _PIECE)
        except BlockingIOError:
            return []
        except OSError as error:
            self.timed_out = error.errno in (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)
            return None
        return self.feed(data) if data else None

    def feed(self, data: bytes) -> list[tuple[dict[str, Any], bytes]] | None:
        """Return the frames completed by `data`, which was read elsewhere; None if it is invalid."""
        try:
            return self._take(self._frames.feed(data))
        except Refused as error:
            self.refused = str(error)
            return None

    def _take(self, frames: Iterable[tuple[dict[str, Any], bytes]]) -> list[tuple[dict[str, Any], bytes]]:
        """Count received frames, and return those that are not acknowledgements."""
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
        """Forget the frames that the peer has acknowledged."""
        if type(heard) is not int or heard > self._sent:
            raise Refused("acknowledged frames that were never sent")
        for _ in range(max(0, len(self._unacked) - (self._sent - heard))):
            self._unacked.popleft()

    def connect(
        self, reading: int, writing: int, frames: FrameDecoder | None = None, heard: int = 0, seal: Seal | None = None
    ) -> None:
        """Continue over a new connection, whose peer has received `heard` frames; `frames` may hold data of it.

        `seal` makes the MACs of outgoing frames. Raises `Refused` if `heard` is impossible.
        """
        self._forget(heard)
        self.reading, self.writing, self.timed_out, self.refused = reading, writing, False, ""
        self._frames, self._seal = frames or FrameDecoder(), seal
        self.out.clear()
        for frame in self._unacked:
            self._emit(frame)

    def disconnect(self) -> None:
        """Forget the connection."""
        self.reading = self.writing = -1
        self._seal = None
        self.out.clear()

    def reset(self) -> None:
        """Start over with a new peer, which knows nothing of the conversation."""
        self._unacked.clear()
        self._sent = self.received = 0
