"""One connection to a program that was sent to the machine of a run: frames in both directions, and heartbeats."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from muster.client.compat import known_as, sent_as
from muster.controller.connections import ProcessConnection, end_links
from muster.linux.eventloop import EventLoop, Timer
from muster.protocol.frames import VERSION, UnknownKinds, encode_frame
from muster.protocol.message_types import Message
from muster.protocol.messages import BEAT, CLIENT, PROXY, TO_CLIENT, between

HEARD: dict[str, Message] = {**TO_CLIENT, **between(PROXY, CLIENT)}
"""Messages that a command may receive from the machine of a run, by kind."""

_CLOSES_WITHIN = 2.0
"""Seconds for the child process behind a connection to exit."""


def _nothing() -> None:
    """Do nothing: the default callback."""


class Connection:
    """A connection in an event loop, from its start to its end. It does not reconnect.

    `heard` is called with each message, `arrived` once the remote program runs, and `ended` when the connection has
    ended other than by `close`.
    """

    def __init__(
        self,
        loop: EventLoop,
        link: ProcessConnection,
        heard: Callable[[dict[str, Any], bytes], object],
        ended: Callable[[], object] = _nothing,
        arrived: Callable[[], object] = _nothing,
    ) -> None:
        self._loop, self.link = loop, link
        self._heard, self._ended, self._arrived = heard, ended, arrived
        self.open = True
        self.version = VERSION
        """Protocol version of the controller at the other end, once it has sent it."""
        self._beat: Timer | None = None

    @property
    def arrived(self) -> bool:
        """Whether the remote program runs. What was sent earlier is lost."""
        return self.link.banner is None

    @property
    def idle(self) -> bool:
        """Whether everything sent has been taken."""
        return not self.link.channel.out

    def start(self) -> None:
        """Start reading; a connection that was made elsewhere may have arrived already."""
        self._loop.add_reader(self.link.stdout, self._readable)
        self._loop.add_reader(self.link.stderr, self._complained)
        self.flush()
        if self.arrived:
            self._arrived()

    def tell(self, kind: str, payload: bytes = b"", **fields: Any) -> None:
        """Send a message."""
        self.link.channel.send(encode_frame(sent_as(self.version, kind), payload, **fields))
        self.flush()

    def flush(self) -> None:
        """Send queued data, as much as is accepted now."""
        self.link.channel.pump(self._loop, self.flush)

    def keep_alive(self) -> None:
        """Send a heartbeat now and regularly from now on."""
        if self.open:
            if self._beat is not None:
                self._beat.cancel()
            self._beat = self._loop.call_later(BEAT, self.keep_alive)
            self.tell("heartbeat")

    def close(self, at_once: bool = True) -> None:
        """Close the connection and terminate its child process; unless `at_once`, let that exit by itself first."""
        if not self.open:
            return
        self.open = False
        if self._beat is not None:
            self._beat.cancel()
        self.link.drain_stderr()  # for its last error message
        self._loop.remove(self.link.stdout, self.link.stderr, self.link.stdin)
        if at_once or not self.arrived:
            self.link.terminate()
        end_links([self.link], _CLOSES_WITHIN)

    def _complained(self) -> None:
        if not self.link.drain_stderr():
            self._loop.remove_reader(self.link.stderr)

    def _readable(self) -> None:
        before = self.arrived
        frames = self.link.read()
        if frames is None:
            self.close()
            self._ended()
            return
        if self.arrived and not before:
            self._arrived()
        for fields, payload in frames:
            if self.open:
                fields["kind"] = known_as(self.version, fields["kind"])
                self._heard(fields, payload)


def frames(link: ProcessConnection, within: float) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield the messages of a connection for at most `within` seconds, then close it."""
    deadline = time.monotonic() + within
    unknown = UnknownKinds(lambda text: print(f"warning: {link.host}: {text}", file=sys.stderr))
    came: deque[tuple[dict[str, Any], bytes]] = deque()
    with EventLoop() as loop:
        connection = Connection(loop, link, lambda fields, payload: came.append((fields, payload)))
        connection.start()
        try:
            while (connection.open or came) and time.monotonic() < deadline:
                if not came:
                    loop.run_once(deadline - time.monotonic())
                while came:
                    fields, payload = came.popleft()
                    if fields["kind"] in HEARD:
                        yield fields, payload
                    else:
                        unknown(fields["kind"])
        finally:
            connection.close()
