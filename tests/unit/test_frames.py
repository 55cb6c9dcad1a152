"""Frames are decoded whole, however the bytes arrive; and nothing before the magic is taken for a frame."""

from __future__ import annotations

import select
from random import Random
from typing import Any

import pytest

from muster.controller.connections import ProcessConnection
from muster.protocol.frames import MAGIC, FrameDecoder, encode_frame

FRAMES: list[tuple[dict[str, Any], bytes]] = [
    ({"kind": "hello", "version": 1, "host": "a"}, b""),
    ({"kind": "output", "rank": 3, "stream": "out"}, b"\x00\xff\n" * 1000),
    ({"kind": "note", "text": "größer, \u2028 and \U0001f600"}, b""),
    ({"kind": "cleaned_up", "ended": [], "left": ["a (pid 1)"], "t": 0.25, "code": None}, b"x"),
]


def packed() -> bytes:
    return b"".join(encode_frame(payload=payload, **fields) for fields, payload in FRAMES)


def test_a_frame_comes_out_as_it_went_in() -> None:
    """Fields and payload."""
    assert FrameDecoder().feed(packed()) == FRAMES


def test_frames_may_come_in_any_pieces() -> None:
    """One byte at a time, or cut anywhere: each is returned once, as soon as it is complete."""
    data = packed()
    unpacker, found = FrameDecoder(), []
    for at in range(len(data)):
        found += unpacker.feed(data[at : at + 1])
    assert found == FRAMES
    for seed in range(50):
        cuts = sorted(Random(seed).randrange(len(data)) for _ in range(6))
        unpacker, found = FrameDecoder(), []
        for begin, end in zip([0, *cuts], [*cuts, len(data)]):
            found += unpacker.feed(data[begin:end])
        assert found == FRAMES, seed


def test_nothing_is_given_before_a_frame_is_whole() -> None:
    data = encode_frame("hello", b"bytes")
    unpacker = FrameDecoder()
    assert (unpacker.feed(data[:-1]), unpacker.feed(data[-1:])) == ([], [({"kind": "hello"}, b"bytes")])


def test_a_frame_is_lengths_and_ascii() -> None:
    """So any version can find the next frame, whatever the locale of a node."""
    assert encode_frame("a", b"bc") == b"\0\0\0\x0c\0\0\0\x02" + b'{"kind":"a"}' + b"bc"
    assert encode_frame("a", text="ö").isascii()


def test_other_bytes_are_not_frames() -> None:
    """An impossible length is an error at once, not a wait for gigabytes."""
    with pytest.raises(ValueError, match="not a frame"):
        FrameDecoder().feed(b"Last login: Mon Nov 21 09:00:00 on pts/0\n")


@pytest.mark.parametrize("pieces", [1, 7])
def test_what_a_login_shell_prints_first_is_skipped(pieces: int) -> None:
    """A .bashrc may print anything before the magic, and the magic itself may arrive in pieces."""
    octal = "".join(f"\\{byte:03o}" for byte in MAGIC + packed())
    # printf understands octal; four characters per byte, so no escape is split
    step = -(-len(octal) // 4 // pieces) * 4
    printed = "; ".join(f"printf '{octal[at : at + step]}'" for at in range(0, len(octal), step))
    argv = ["/bin/sh", "-c", f"echo 'welcome to node 7'; echo muster agent; {printed}"]
    link = ProcessConnection(0, "a", argv, {}, "/")
    found = []
    while True:
        assert select.select([link.stdout], [], [], 120)[0], "nothing more came"
        frames = link.read()
        if frames is None:
            break
        found += frames
    link.process.wait()
    for file in (link.stdin, link.stdout, link.stderr):
        file.close()
    assert found == FRAMES
