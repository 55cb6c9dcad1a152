"""Connections to controllers on this machine, by a thread."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from waiting import until

from muster.agent.proxy import send, write_all
from muster.client.connection import Connection
from muster.client.direct import ThreadConnection
from muster.linux.eventloop import EventLoop
from muster.protocol.frames import FrameDecoder


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def echo(source: int, sink: int, errors: int) -> None:
    """Send back each message, with another kind; a message `quit` ends it."""
    decoder = FrameDecoder()
    while data := os.read(source, 1 << 16):
        for fields, payload in decoder.feed(data):
            if fields["kind"] == "quit":
                write_all(errors, b"as you wish\n")
                return
            send("answer", payload, sink, was=fields["kind"])


def flood(source: int, sink: int, errors: int) -> None:
    """Write until the other end is closed."""
    while True:
        write_all(sink, bytes(1 << 16))


class Heard:
    """A connection to `work`, and what was heard from it."""

    def __init__(self, loop: EventLoop, work: Callable[[int, int, int], object]) -> None:
        self.messages: list[tuple[dict[str, Any], bytes]] = []
        self.ended = False
        self.loop, self.link = loop, ThreadConnection("here", work)
        self.connection = Connection(loop, self.link, lambda *message: self.messages.append(message), self._ended)
        self.connection.start()

    def _ended(self) -> None:
        self.ended = True

    def until(self, condition: Callable[[], object]) -> None:
        """Run the loop until the condition holds."""
        while not condition():
            self.loop.run_once(10)


def test_messages_in_both_directions() -> None:
    with EventLoop() as loop:
        heard = Heard(loop, echo)
        assert heard.connection.arrived
        heard.connection.tell("state", b"abc")
        heard.until(lambda: heard.messages)
        fields, payload = heard.messages[0]
        assert ("answer", "state", b"abc") == (fields["kind"], fields["was"], payload)
        heard.connection.close()
        assert heard.link.ends_within(10)


def test_the_end_of_the_thread_ends_the_connection() -> None:
    with EventLoop() as loop:
        heard = Heard(loop, echo)
        heard.connection.tell("quit")
        heard.until(lambda: heard.ended)
        assert not heard.connection.open
        assert "as you wish" == heard.link.stderr_summary()


@pytest.mark.parametrize("work", [echo, flood])
def test_closing_ends_the_thread_and_leaves_no_files(work: Callable[[int, int, int], object]) -> None:
    with EventLoop() as loop:
        before = open_files()
        heard = Heard(loop, work)
        heard.connection.close()
        assert heard.link.ends_within(10)
        until(lambda: open_files() == before, "files are left open")
