"""Frames between an agent and whoever speaks to it: a JSON object and, beside it, bytes.

    4 bytes   length of the JSON text          (big-endian)
    4 bytes   length of the bytes after it
    the JSON text, the bytes
    16 bytes  MAC, over TCP only (`handshake.py`)

`MAGIC` comes before the first frame of an agent, so that whatever a login shell prints before it is not taken for one.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muster.agent.handshake import Seal

VERSION = 3
MAGIC = b"\0muster agent %d\n" % VERSION

TAG = 16
"""Bytes of the MAC of a frame."""

LARGEST = 64 << 20
"""Bytes of the text, and of the bytes beside it, that a frame may have."""

_LENGTHS = struct.Struct("!II")


class Refused(ValueError):
    """What came is not what may come here: the connection has to end."""


def pack(kind: str, payload: bytes = b"", **fields: Any) -> bytes:
    """Make one frame of `kind` with these fields and bytes."""
    fields["kind"] = kind
    text = json.dumps(fields, separators=(",", ":")).encode("ascii")
    return _LENGTHS.pack(len(text), len(payload)) + text + payload


def whole(value: Any) -> bool:
    """It is a number that fits into 31 bits; not a bool, which is an int to Python."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


def text(value: Any) -> bool:
    """It is a string that a program can be given."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        return bool(os.fsencode(value)) or not value
    except UnicodeEncodeError:
        return False


def environment(value: Any) -> bool:
    """It is an object of strings, whose names can be those of variables."""
    return isinstance(value, dict) and all(
        name and "=" not in name and text(name) and text(item) for name, item in value.items()
    )


def several(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether a value is a list of such."""
    return lambda value: isinstance(value, list) and all(map(right, value))


def optional(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether a value is None, or left out, or such."""
    return lambda value: value is None or right(value)


def check(fields: Mapping[str, Any], rights: Mapping[str, Callable[[Any], bool]]) -> None:
    """Look whether each of these fields is what it has to be. Raises `Refused`."""
    for name, right in rights.items():
        if not right(fields.get(name)):
            raise Refused(f"`{name}` of `{fields['kind']}` is not understood")


class Unpacker:
    """Cut a stream of bytes into frames.

    `largest`: the most bytes that text and payload of a frame may have. `seal` checks the MAC of each frame.
    """

    def __init__(self, largest: int = LARGEST, seal: Seal | None = None) -> None:
        self.largest, self.seal = largest, seal
        self._buffer = bytearray()

    @property
    def empty(self) -> bool:
        """There are no bytes of a frame that is not yet given."""
        return not self._buffer

    def add(self, data: bytes) -> None:
        """Take bytes as they come."""
        self._buffer += data

    def feed(self, data: bytes) -> list[tuple[dict[str, Any], bytes]]:
        """Take bytes as they come; give the frames that they complete, as (fields, bytes). Raises `Refused`."""
        self._buffer += data
        frames, start = [], 0
        while (found := self._next(start)) is not None:
            start, fields, payload = found
            frames.append((fields, payload))
        del self._buffer[:start]
        return frames

    def one(self) -> dict[str, Any] | None:
        """The fields of the next frame, if it is whole; what follows it stays. Raises `Refused`."""
        found = self._next(0)
        if found is None:
            return None
        end, fields, _ = found
        del self._buffer[:end]
        return fields

    def _next(self, start: int) -> tuple[int, dict[str, Any], bytes] | None:
        """Where the frame that begins at `start` ends, its fields and bytes; None while it is not whole."""
        if len(self._buffer) - start < _LENGTHS.size:
            return None
        text, payload = _LENGTHS.unpack_from(self._buffer, start)
        if text > self.largest or payload > self.largest:
            raise Refused("this is not a frame")
        middle = start + _LENGTHS.size + text
        end = middle + payload
        tagged = end + (TAG if self.seal is not None else 0)
        if len(self._buffer) < tagged:
            return None
        if self.seal is not None:
            # as memory views: output comes in large frames, which are not copied for this
            with memoryview(self._buffer) as view:
                self.seal.check(view[start:end], bytes(view[end:tagged]))
        return tagged, _fields(self._buffer[start + _LENGTHS.size : middle]), bytes(self._buffer[middle:end])


def _fields(text: bytes | bytearray) -> dict[str, Any]:
    """The JSON object of a frame. Raises `Refused`."""
    try:
        fields = json.loads(text.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise Refused(f"this is not a frame: {type(error).__name__}") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("kind"), str):
        raise Refused("this is not a frame: it has no kind")
    return fields
