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
from typing import Any, BinaryIO, Protocol

VERSION = 5
"""What this muster speaks. An agent is of the very version of its controller."""
OLDEST = 3
"""The earliest version of a controller that a client speaks to."""
MAGIC = b"\0muster agent %d\n" % VERSION

TAG = 16
"""Bytes of the MAC of a frame."""

LARGEST = 64 << 20
"""Bytes of the text, and of the bytes beside it, that a frame may have."""

_LENGTHS = struct.Struct("!II")


class Refused(ValueError):
    """What came is not what may come here: the connection has to end."""


def encode_frame(kind: str, payload: bytes = b"", **fields: Any) -> bytes:
    """Make one frame of `kind` with these fields and bytes."""
    fields["kind"] = kind
    text = json.dumps(fields, separators=(",", ":")).encode("ascii")
    return _LENGTHS.pack(len(text), len(payload)) + text + payload


def whole_frames(data: bytes | bytearray) -> int:
    """How many of these bytes are whole frames, for who passes them on and need not know what they say."""
    end = following = 0
    while following <= len(data):
        end = following
        if len(data) - end < _LENGTHS.size:
            break
        following = end + _LENGTHS.size + sum(_LENGTHS.unpack_from(data, end))
    return end


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


def handlers(owner: object, prefix: str) -> dict[str, Callable[..., Any]]:
    """The methods that handle messages, by kind: with the prefix `on_`, `on_start` is that of `start`."""
    names = [name for name in dir(type(owner)) if name.startswith(prefix)]
    return {name[len(prefix) :]: getattr(owner, name) for name in names}


_TAKES_MORE = 0x08
"""CO_VARKEYWORDS of `inspect`, whose import takes longer than all of an agent."""

_KINDS_NOTED = 10
"""How many unknown kinds are noted for each receiver: whoever sends them may make up any number."""


class UnknownKinds:
    """Notes kinds of messages that are not known here, each once; they are skipped."""

    def __init__(self, note: Callable[..., object]) -> None:
        self._note = note
        self._noted: set[str] = set()

    def __call__(self, kind: str, *more: Any) -> None:
        """This kind has come; `note` gets `more` after its words."""
        if kind not in self._noted and len(self._noted) < _KINDS_NOTED:
            self._noted.add(kind)
            self._note(f"a message of an unknown kind was skipped: {kind[:40]!a}", *more)


class Dispatcher:
    """Calls the handler of each message, by its kind. A kind that has none is noted, once, and skipped.

    `fitting` gives the fields with which a handler is called, and raises `Refused` where they are not those of the
    kind; what then comes of the connection is for who called. `note` is told in words what is skipped.
    """

    def __init__(
        self,
        known: Mapping[str, Callable[..., Any]],
        fitting: Callable[[str, Mapping[str, Any]], Mapping[str, Any]],
        note: Callable[..., object],
    ) -> None:
        self.known, self._fitting, self._unknown = known, fitting, UnknownKinds(note)

    def __call__(self, fields: Mapping[str, Any], payload: bytes, *before: Any) -> bool:
        """Call the handler with `before`, the payload and the fields; False where there is none.

        `note` gets `before` after its words.
        """
        kind = fields["kind"]
        handler = self.known.get(kind)
        if handler is None:
            self._unknown(kind, *before)
            return False
        handler(*before, payload, **self._fitting(kind, fields))
        return True


def named(known: Mapping[str, Callable[..., Any]]) -> Callable[[str, Mapping[str, Any]], Mapping[str, Any]]:
    """For a `Dispatcher`: fields have to be the parameters of the handler, by name. Their types are believed: what is
    heard is of a controller of the same version, which has proved itself."""

    def fitting(kind: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        method: Any = known[kind]
        code, defaults = method.__func__.__code__, method.__defaults__ or ()
        names = code.co_varnames[2 : code.co_argcount]  # after self and the payload
        wrong = [name for name in names[: len(names) - len(defaults)] if name not in fields]
        if not code.co_flags & _TAKES_MORE:
            wrong += [name for name in fields if name not in names and name != "kind"]
        if wrong:
            raise Refused(f"`{kind}` is not understood: {wrong[0][:40]!a}")
        return {name: value for name, value in fields.items() if name != "kind"}

    return fitting


class ChecksFrames(Protocol):
    """What knows the MACs of frames (`handshake.Seal`)."""

    def check(self, frame: bytes | memoryview, tag: bytes) -> None:
        """Raise `Refused` unless this is the MAC of the next frame."""


class FrameDecoder:
    """Cut a stream of bytes into frames.

    `largest`: the most bytes that text and payload of a frame may have. `seal` checks the MAC of each frame.
    """

    def __init__(self, largest: int = LARGEST, seal: ChecksFrames | None = None) -> None:
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


def read_call(file: BinaryIO) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of the message `call`, of which this takes no byte more. Raises `Refused`."""
    text, _ = _LENGTHS.unpack(file.read(_LENGTHS.size).ljust(_LENGTHS.size, b"\0"))
    fields = _fields(file.read(text))
    if fields["kind"] == "call":
        return fields["name"], fields["args"]
    raise Refused("this is no call")


def _fields(text: bytes | bytearray) -> dict[str, Any]:
    """The JSON object of a frame. Raises `Refused`."""
    try:
        fields = json.loads(text.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise Refused(f"this is not a frame: {type(error).__name__}") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("kind"), str):
        raise Refused("this is not a frame: it has no kind")
    return fields
