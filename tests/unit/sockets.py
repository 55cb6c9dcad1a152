"""The other end of a command's connection, controlled by a test: no process, no proxy."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

from waiting import until

from muster.controller.connections import AgentConnection, ProcessConnection
from muster.protocol.channel import Channel
from muster.protocol.frames import MAGIC, FrameDecoder, encode_frame


class Gone:
    """The process of a connection that has none."""

    def terminate(self) -> None:
        pass

    def wait(self, timeout: float = 0.0) -> int:
        return 0


class SocketLink(ProcessConnection):
    """A connection whose other end is `there`."""

    def __init__(self, arrived: bool = True) -> None:
        near, self.there = socket.socketpair()
        near.setblocking(False)
        self.there.settimeout(120)
        self.stdout, self.stdin = near.makefile("rb", buffering=0), near.makefile("wb", buffering=0)
        near.close()
        reading, self._complains = os.pipe()
        os.set_blocking(reading, False)
        self.stderr = open(reading, "rb", buffering=0)
        AgentConnection.__init__(self, 0, "n1", Channel(self.stdout.fileno(), self.stdin.fileno()))
        self.process = Gone()  # type: ignore[assignment]
        self.banner, self.stderr_tail = bytearray(), bytearray()
        self._frames = FrameDecoder()
        self._heard: list[tuple[dict[str, Any], bytes]] = []
        if arrived:
            self.say_raw(MAGIC)

    def say_raw(self, data: bytes) -> None:
        """Send these bytes to the command."""
        self.there.sendall(data)

    def say(self, kind: str, payload: bytes = b"", **fields: Any) -> None:
        """Send a message to the command."""
        self.say_raw(encode_frame(kind, payload, **fields))

    def complain(self, text: str) -> None:
        """Write to the stderr of the program that connects to the host."""
        os.write(self._complains, text.encode())

    def hang_up(self) -> None:
        """Close the connection."""
        self.there.close()

    def heard(self) -> list[dict[str, Any]]:
        """Return what the command has sent since the last call, except for heartbeats."""
        self.there.setblocking(False)
        try:
            while data := self.there.recv(1 << 16):
                self._heard += self._frames.feed(data)
        except (BlockingIOError, ConnectionResetError):
            pass
        self.there.settimeout(120)
        found, self._heard = self._heard, []
        return [fields for fields, _ in found if fields["kind"] not in ("heartbeat", "beat")]


class Host:
    """A fake host: each connection to it is answered by the next of these scripts, in a thread.

    A script is a list of kinds of messages to wait for, and functions that do something with the connection.
    """

    def __init__(self) -> None:
        self.links: list[SocketLink] = []
        self.heard: list[dict[str, Any]] = []
        self.scripts: list[list[Any]] = []
        self._threads: list[threading.Thread] = []

    def connect(self, *_: object) -> SocketLink:
        """Make a connection."""
        link = SocketLink(arrived=False)
        self.links.append(link)
        thread = threading.Thread(target=self.obey, args=(link, self.scripts.pop(0) if self.scripts else []))
        self._threads.append(thread)
        thread.start()
        return link

    def obey(self, link: SocketLink, script: list[Any]) -> None:
        """Run a script."""
        pending: list[dict[str, Any]] = []

        def come(kind: str) -> list[int]:
            pending.extend(link.heard())
            return [at for at, fields in enumerate(pending, 1) if fields["kind"] == kind]

        try:
            for step in script:
                if isinstance(step, str):
                    upto = until(lambda step=step: come(step), f"`{step}` comes", 150)[0]
                    self.heard += pending[:upto]
                    del pending[:upto]
                else:
                    step(link)
            self.heard += pending
        except ConnectionError:
            pass  # the command has closed the connection before it received everything
        finally:
            if not script or script[-1] is not stays:
                link.hang_up()

    def end(self) -> None:
        """Wait until all scripts have finished."""
        for thread in self._threads:
            thread.join(30)
        for link in self.links:
            link.hang_up()


def stays(link: SocketLink) -> None:
    """Last step of a script whose connection is not closed."""


def arrives(link: SocketLink) -> None:
    """Step that reports that the remote program runs."""
    link.say_raw(MAGIC)


def says(kind: str, payload: bytes = b"", **fields: Any) -> Any:
    """Return a step that sends this message."""
    return lambda link: link.say(kind, payload, **fields)
