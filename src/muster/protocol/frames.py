"""Frames between an agent and its peers: a JSON object and a payload of bytes.

    4 bytes   length of the JSON text          (big-endian)
    4 bytes   length of the payload
    the JSON text, the payload
    16 bytes  MAC, over TCP only (`handshake.py`)

An agent sends `MAGIC` before its first frame, so that the output of a login shell before it is not taken for a frame.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Protocol

VERSION = 5
"""Protocol version of this muster. An agent has exactly its controller's version."""
OLDEST = 3
"""The oldest version of a controller that a client supports."""
MAGIC = b"\0muster agent %d\n" % VERSION

TAG = 16
"""Length of a frame's MAC, in bytes."""

LARGEST = 64 << 20
"""Maximum bytes of a frame's JSON text, and of its payload."""

_LENGTHS = struct.Struct("!II")


class Refused(ValueError):
    """The data or message is not allowed here: the connection must be closed."""


def encode_frame(kind: str, payload: bytes = b"", **fields: Any) -> bytes:
    """Return a frame of `kind` with these fields and payload."""
    fields["kind"] = kind
    text = json.dumps(fields, separators=(",", ":")).encode("ascii")
    return _LENGTHS.pack(len(text), len(payload)) + text + payload


def whole_frames(data: bytes | bytearray) -> int:
    """Return how many of these bytes are complete frames, for code that forwards them without parsing."""
    end = following = 0
    while following <= len(data):
        end = following
        if len(data) - end < _LENGTHS.size:
            break
        following = end + _LENGTHS.size + sum(_LENGTHS.unpack_from(data, end))
    return end


def whole(value: Any) -> bool:
    """Return whether the value is an integer of at most 31 bits, but not a bool, which is an int in Python."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


def text(value: Any) -> bool:
    """Return whether the value is a string that can be passed to a program."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        return bool(os.fsencode(value)) or not value
    except UnicodeEncodeError:
        return False


def environment(value: Any) -> bool:
    """Return whether the value is an object of strings that can be environment variables."""
    return isinstance(value, dict) and all(
        name and "=" not in name and text(name) and text(item) for name, item in value.items()
    )


def several(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a check that a value is a list of items accepted by `right`."""
    return lambda value: isinstance(value, list) and all(map(right, value))


def optional(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a check that a value is None or accepted by `right`."""
    return lambda value: value is None or right(value)


def handlers(owner: object, prefix: str) -> dict[str, Callable[..., Any]]:
    """Return the message handlers of an object by kind: with the prefix `on_`, `on_start` handles `start`."""
    names = [name for name in dir(type(owner)) if name.startswith(prefix)]
    return {name[len(prefix) :]: getattr(owner, name) for name in names}


_TAKES_MORE = 0x08
"""CO_VARKEYWORDS of `inspect`, whose import takes longer than that of the whole agent."""

_KINDS_NOTED = 10
"""Maximum of unknown kinds noted per receiver: a peer may send any number of them."""


class UnknownKinds:
    """Notes each unknown kind of message once; these messages are skipped."""

    def __init__(self, note: Callable[..., object]) -> None:
        self._note = note
        self._noted: set[str] = set()

    def __call__(self, kind: str, *more: Any) -> None:
        """Note a kind; `note` is called with the text and `more`."""
        if kind not in self._noted and len(self._noted) < _KINDS_NOTED:
            self._noted.add(kind)
            self._note(f"skipped a message of unknown kind: {kind[:40]!a}", *more)


class Dispatcher:
    """Calls the handler of each message by its kind. Kinds without a handler are noted once and skipped.

    `fitting` returns the fields to call the handler with, and raises `Refused` if they do not match the kind; closing
    the connection is left to the caller. `note` is called with a text about what is skipped.
    """

    def __init__(
        self,
        known: Mapping[str, Callable[..., Any]],
        fitting: Callable[[str, Mapping[str, Any]], Mapping[str, Any]],
        note: Callable[..., object],
    ) -> None:
        self.known, self._fitting, self._unknown = known, fitting, UnknownKinds(note)

    def __call__(self, fields: Mapping[str, Any], payload: bytes, *before: Any) -> bool:
        """Call the handler with `before`, the payload and the fields; return False if there is none.

        `note` is called with `before` after its text.
        """
        kind = fields["kind"]
        handler = self.known.get(kind)
        if handler is None:
            self._unknown(kind, *before)
            return False
        handler(*before, payload, **self._fitting(kind, fields))
        return True


def named(known: Mapping[str, Callable[..., Any]]) -> Callable[[str, Mapping[str, Any]], Mapping[str, Any]]:
    """Return a `fitting` for `Dispatcher` that requires the fields to be the handler's parameters, by name.

    Types are not checked: the sender is an authenticated controller of the same version.
    """

    def fitting(kind: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        method: Any = known[kind]
        code, defaults = method.__func__.__code__, method.__defaults__ or ()
        names = code.co_varnames[2 : code.co_argcount]  # after self and the payload
        wrong = [name for name in names[: len(names) - len(defaults)] if name not in fields]
        if not code.co_flags & _TAKES_MORE:
            wrong += [name for name in fields if name not in names and name != "kind"]
        if wrong:
            raise Refused(f"invalid fields of `{kind}`: {wrong[0][:40]!a}")
        return {name: value for name, value in fields.items() if name != "kind"}

    return fitting


class ChecksFrames(Protocol):
    """Checks MACs of frames (`handshake.Seal`)."""

    def check(self, frame: bytes | memoryview, tag: bytes) -> None:
        """Raise `Refused` unless `tag` is the MAC of the next frame."""


class FrameDecoder:
    """Splits a stream of bytes into frames.

    `largest`: maximum bytes of a frame's text and of its payload. `seal` checks the MAC of each frame.
    """

    def __init__(self, largest: int = LARGEST, seal: ChecksFrames | None = None) -> None:
        self.largest, self.seal = largest, seal
        self._buffer = bytearray()

    @property
    def empty(self) -> bool:
        """Whether no incomplete frame is buffered."""
        return not self._buffer

    def add(self, data: bytes) -> None:
        """Buffer received bytes."""
        self._buffer += data

    def feed(self, data: bytes) -> list[tuple[dict[str, Any], bytes]]:
        """Buffer received bytes and return the frames they complete, as (fields, payload). Raises `Refused`."""
        self._buffer += data
        frames, start = [], 0
        while (found := self._next(start)) is not None:
            start, fields, payload = found
            frames.append((fields, payload))
        del self._buffer[:start]
        return frames

    def one(self) -> dict[str, Any] | None:
        """Return the fields of the next frame, if complete, and keep what follows buffered. Raises `Refused`."""
        found = self._next(0)
        if found is None:
            return None
        end, fields, _ = found
        del self._buffer[:end]
        return fields

    def _next(self, start: int) -> tuple[int, dict[str, Any], bytes] | None:
        """Return the end, fields and payload of the frame at `start`; None if it is incomplete."""
        if len(self._buffer) - start < _LENGTHS.size:
            return None
        text, payload = _LENGTHS.unpack_from(self._buffer, start)
        if text > self.largest or payload > self.largest:
            raise Refused("not a frame")
        middle = start + _LENGTHS.size + text
        end = middle + payload
        tagged = end + (TAG if self.seal is not None else 0)
        if len(self._buffer) < tagged:
            return None
        if self.seal is not None:
            # memory views, because frames with output are large and must not be copied for this
            with memoryview(self._buffer) as view:
                self.seal.check(view[start:end], bytes(view[end:tagged]))
        return tagged, _fields(self._buffer[start + _LENGTHS.size : middle]), bytes(self._buffer[middle:end])


def read_call(file: BinaryIO) -> tuple[str, dict[str, Any]]:
    """Read a `call` message, and not a byte more; return its name and arguments. Raises `Refused`."""
    text, _ = _LENGTHS.unpack(file.read(_LENGTHS.size).ljust(_LENGTHS.size, b"\0"))
    if text > LARGEST:
        raise Refused("not a call")
    fields = _fields(file.read(text))
    name, args = fields.get("name"), fields.get("args")
    if fields["kind"] != "call" or not isinstance(name, str) or not isinstance(args, dict):
        raise Refused("not a call")
    return name, args


def _fields(text: bytes | bytearray) -> dict[str, Any]:
    """Return the JSON object of a frame. Raises `Refused`."""
    try:
        fields = json.loads(text.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise Refused(f"not a frame: {type(error).__name__}") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("kind"), str):
        raise Refused("not a frame: it has no kind")
    return fields
