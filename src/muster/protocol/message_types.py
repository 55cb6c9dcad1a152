"""What a message is, and the types of its fields: how each is checked, and what a trace shows of it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from muster.protocol import frames
from muster.protocol.frames import OLDEST, Refused


class Type(NamedTuple):
    """The type of a field: the values that it accepts."""

    name: str
    """Name for users."""
    right: Callable[[Any], bool]
    shown: Callable[[Any], str] = lambda value: "…"
    """Returns what a trace prints of a value; by default nothing, because it may be a secret."""
    required: bool = True
    """True if the field is always present."""


class Message(NamedTuple):
    """One kind of message. Between other ends a kind may have another meaning."""

    leg: str
    sender: str
    receiver: str
    kind: str
    says: str
    """Its purpose, in one sentence."""
    fields: Mapping[str, Type]
    payload: str = ""
    """Description of the payload; empty if there is none."""
    since: int = OLDEST
    """The first version of the protocol that has it, under this name."""

    def fitting(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields without unknown ones of a newer muster. Raises `Refused` if one is invalid."""
        found = {}
        for name, type_ in self.fields.items():
            if name in fields:
                value = fields[name]
                if not type_.right(value):
                    raise Refused(f"`{name}` of `{self.kind}` is not a {type_.name}: {_short(value)}")
                found[name] = value
            elif type_.required:
                raise Refused(f"`{self.kind}` lacks `{name}`")
        return found


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


# ---- types ----------------------------------------------------------------------------------------------------------


def _count(value: Any) -> str:
    return f"[{len(value)}]" if isinstance(value, list) else f"{{{len(value)}}}"


def _table_of(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(right, value.values()))


def _natural(value: Any) -> bool:
    """A number of bytes, an inode, a number of events: it may be large."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e18


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if len(value) <= 8 else f"{value[0]} … {value[-1]} ({len(value)})"


_BYTES_SHOWN = 60


FLAG = Type("boolean", lambda value: isinstance(value, bool), lambda value: "yes" if value else "no")

WHOLE = Type("whole number", frames.whole, str)

COUNT = Type("large whole number", _natural, str)

LAST = Type("whole number or -1", lambda value: frames.whole(value) or (type(value) is int and value == -1), str)

PID = Type("process id", lambda value: frames.whole(value) and value > 1, str)

SIGNAL = Type("signal number", lambda value: frames.whole(value) and value in signal.valid_signals(), str)

SIGNALS = Type("list of signal numbers", frames.several(SIGNAL.right), _words)

CELLS = Type("number of rows or columns", lambda value: frames.whole(value) and value < 1 << 16, str)

SECONDS = Type("number of seconds", _number, lambda value: f"{value:.3f}")

NUMBERS = Type("list of whole numbers", frames.several(frames.whole), _words)

STRING = Type("string", lambda value: isinstance(value, str), lambda value: ascii(value[:_BYTES_SHOWN]))

STRINGS = Type("list of strings", frames.several(STRING.right), _count)

TEXT = Type("string without NUL", frames.text, STRING.shown)

TEXTS = Type("list of strings without NUL", frames.several(frames.text), _count)

WORD = Type("word", frames.text, lambda value: ascii(value[:_BYTES_SHOWN])[1:-1])

ENVIRONMENT = Type("object of environment variables", frames.environment, _count)

LATE = Type("object of strings or null", _table_of(frames.optional(frames.text)), _count)

BY_NAME = Type("object of strings", _table_of(frames.text), _count)

PIDS = Type("object of whole numbers, by rank", _table_of(frames.whole), _count)

OFFSETS = Type("object of large whole numbers, by log", _table_of(_natural), _count)

TABLE = Type("object", lambda value: isinstance(value, dict), _count)

STACKS = Type("object of strings, by rank", _table_of(STRING.right), _count)

TABLES = Type("object of objects", _table_of(TABLE.right), _count)

RECORDS = Type("list of objects", frames.several(TABLE.right), _count)

LIST = Type("list of numbers", frames.several(_number), _count)

PAIRS = Type("list of lists of strings", frames.several(TEXTS.right), _count)

PLACE = Type(
    "list: inode, file system; or empty",
    lambda value: (
        value == [] or (isinstance(value, list) and len(value) == 2 and _natural(value[0]) and STRING.right(value[1]))
    ),
    _count,
)

WANT = Type(
    "boolean, or list of ranks",
    lambda value: FLAG.right(value) or NUMBERS.right(value),
    lambda value: FLAG.shown(value) if FLAG.right(value) else _words(value),
)

WAYS = Type("object of objects of strings", _table_of(BY_NAME.right), _count)

_MORE_OF_FAILURE = {
    "place": TEXT.right,
    "proven": FLAG.right,
    "blames": NUMBERS.right,
    "own_before": TEXT.right,
}

FAILURE = Type(
    "object: `kind`, `summary`, `frames`, `t`, and perhaps `place`, `proven`, `blames`, `own_before`",
    lambda value: (
        isinstance(value, dict)
        and STRING.right(value.get("kind"))
        and STRING.right(value.get("summary"))
        and STRINGS.right(value.get("frames"))
        and _number(value.get("t"))
        and all(right(value[name]) for name, right in _MORE_OF_FAILURE.items() if name in value)
    ),
    lambda value: ascii(value["summary"][:_BYTES_SHOWN]),
)

PROCESSES = Type(
    "list of objects: `process`, `pid`, `state`, `gpu`",
    frames.several(
        lambda value: (
            isinstance(value, dict)
            and frames.text(value.get("process"))
            and frames.whole(value.get("pid"))
            and frames.text(value.get("state"))
            and FLAG.right(value.get("gpu"))
        )
    ),
    _count,
)

PROCESSES_BY_RUN = Type("object of such lists, by run", _table_of(PROCESSES.right), _count)

TEXTS_BY_RUN = Type("object of lists of strings without NUL, by run", _table_of(TEXTS.right), _count)

HIDDEN = Type("object", TABLE.right)

HIDDEN_RECORDS = Type("list of objects", RECORDS.right)

HIDDEN_WORDS = Type("list of strings without NUL", TEXTS.right)

SECRET = Type("secret string", STRING.right)


def or_null(type_: Type) -> Type:
    """Return a type that also accepts null."""
    return type_._replace(
        name=f"{type_.name}, or null",
        right=frames.optional(type_.right),
        shown=lambda value: "none" if value is None else type_.shown(value),
    )


def maybe(type_: Type) -> Type:
    """Return a type for an optional field."""
    return type_._replace(required=False)
