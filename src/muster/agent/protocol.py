"""Frames between an agent and whoever speaks to it: a JSON object and, beside it, bytes.

    4 bytes   length of the JSON text          (big-endian)
    4 bytes   length of the bytes after it
    the JSON text, the bytes

`MAGIC` comes before the first frame of an agent, so that whatever a login shell prints before it is not taken for one.
"""

from __future__ import annotations

import json
import struct
from typing import Any

VERSION = 2
MAGIC = b"\0muster agent %d\n" % VERSION

_LENGTHS = struct.Struct("!II")
_LARGEST = 64 << 20


def pack(kind: str, payload: bytes = b"", **fields: Any) -> bytes:
    """Make one frame of `kind` with these fields and bytes."""
    fields["kind"] = kind
    text = json.dumps(fields, separators=(",", ":")).encode("ascii")
    return _LENGTHS.pack(len(text), len(payload)) + text + payload


class Unpacker:
    """Cut a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[dict[str, Any], bytes]]:
        """Take bytes as they come; give the frames that they complete, as (fields, bytes)."""
        self._buffer += data
        frames = []
        start = 0
        while len(self._buffer) - start >= _LENGTHS.size:
            text, payload = _LENGTHS.unpack_from(self._buffer, start)
            if text > _LARGEST or payload > _LARGEST:
                raise ValueError("this is not a frame")
            middle = start + _LENGTHS.size + text
            if len(self._buffer) < middle + payload:
                break
            fields = json.loads(self._buffer[start + _LENGTHS.size : middle].decode("ascii"))
            frames.append((fields, bytes(self._buffer[middle : middle + payload])))
            start = middle + payload
        del self._buffer[:start]
        return frames


def socket_name(uid: int, run_id: str, who: int | str) -> str:
    """The abstract socket at which the agent of node `who`, or the `supervisor`, answers."""
    # a path would break at 108 bytes and on NFS
    return f"\0muster/{uid}/{run_id}/{who}"
