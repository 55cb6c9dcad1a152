"""What is typed reaches the rank that reads it once and in order, however often a connection breaks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from muster.agent.stdin import RankStdin
from muster.linux.eventloop import EventLoop


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    with EventLoop() as made:
        yield made


def piped(loop: EventLoop) -> tuple[RankStdin, list[int], int]:
    """One that is written to, how much it says was taken, and the rank's end."""
    taken: list[int] = []

    def emit(kind: str, payload: bytes = b"", **fields: Any) -> None:
        assert kind == "stdin_taken"
        taken.append(fields["upto"])

    stdin = RankStdin(loop, emit, None, piped=True)
    assert stdin.fd is not None
    return stdin, taken, stdin.fd


def test_bytes_that_come_twice_are_written_once_and_after_a_gap_none(loop: EventLoop) -> None:
    stdin, taken, fd = piped(loop)
    stdin.write(b"abc", 0, False)
    stdin.write(b"bcd", 1, False)
    stdin.write(b"x", 9, False)
    assert (b"abcd", [3, 4]) == (os.read(fd, 100), taken)
    os.close(fd)


def test_the_end_comes_after_all_bytes(loop: EventLoop) -> None:
    """More than a pipe takes at once waits until the rank has read."""
    stdin, taken, fd = piped(loop)
    stdin.write(b"x" * 200_000, 0, True)
    assert 0 < taken[-1] < 200_000
    read = 0
    while data := os.read(fd, 1 << 16):
        read += len(data)
        loop.run_once(0)
    assert (200_000, 200_000) == (read, taken[-1])
    os.close(fd)


def test_what_nobody_reads_counts_as_taken(loop: EventLoop) -> None:
    stdin, taken, fd = piped(loop)
    os.close(fd)
    stdin.write(b"abc", 0, True)
    assert [3] == taken


def test_a_descriptor_of_this_machine_is_not_inherited_by_others(loop: EventLoop) -> None:
    fd, other = os.pipe()
    os.set_inheritable(fd, True)
    stdin = RankStdin(loop, lambda *args, **fields: None, fd, piped=True)
    assert (stdin.fd, os.get_inheritable(fd)) == (fd, False)
    os.close(fd)
    os.close(other)
