"""Inputs near valid ones, and the property of all parsers: a result, or one sentence for the user."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from typing import Any, Callable, TypeVar

from hypothesis import strategies as st

from muster.errors import MusterError

T = TypeVar("T")
Path = tuple[Any, ...]

PIECES = (
    *("", " ", "\t", "\n", "\r\n", "\0", "\x1b[2J", "\u2028", "\ufeff", "é", "²", "٣", "\udcff", "🙂"),
    *("0", "-1", "1.5", "1e9", "9" * 19, "9" * 5000, "nan", "inf", "0x10", "1_000"),
    *("[", "]", "[[", "[1-3]", "[3-1]", "[1-9999999999]", "{", "}", "(", ")", "<", ">", "&", "&#0;", "<!--"),
    *("'", '"', "\\", "`", "$", "${x", "$(", "#", "%", "%j", ",", ",,", ":", "::", ";", "|", "=", "==", "@", "/"),
    *("-", "--", "-g", "--np=", "None", "null", "true", "(null)", "N/A", "Unknown", "UNLIMITED"),
)
"""What parsers stumble over."""

any_text = st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


def _edited(text: str, edits: Sequence[tuple[str, float, float, str]]) -> str:
    for how, where, length, piece in edits:
        start = int(where * len(text))
        end = start + int(length * 12)
        if how == "cut":
            text = text[:start]
        elif how == "delete":
            text = text[:start] + text[end:]
        elif how == "double":
            text = text[:end] + text[start:]
        else:
            text = text[:start] + piece + text[start if how == "insert" else end :]
    return text


def _tokens(sample: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"\w+|\s|[^\w\s]", sample)))


def near(*samples: str) -> st.SearchStrategy[str]:
    """Texts like these: edited in a few places, made of their words in another order, and any others."""
    unit = st.floats(0, 1, allow_nan=False)
    edit = st.tuples(
        st.sampled_from(("cut", "delete", "double", "insert", "replace")), unit, unit, st.sampled_from(PIECES)
    )
    edited = st.builds(_edited, st.sampled_from(samples), st.lists(edit, max_size=4))
    words = st.sampled_from([token for sample in samples for token in _tokens(sample)] or [""])
    mixed = st.lists(words | st.sampled_from(PIECES), max_size=24).map("".join)
    return edited | mixed | any_text


def bytes_near(*samples: bytes) -> st.SearchStrategy[bytes]:
    """Bytes like these: cut, with changed bits and with pieces of others, and any others."""

    def change(data: bytes, changes: Sequence[tuple[str, float, bytes]]) -> bytes:
        for how, where, piece in changes:
            at = int(where * len(data))
            if how == "cut":
                data = data[:at]
            elif how == "flip" and data:
                at = min(at, len(data) - 1)
                data = data[:at] + bytes([data[at] ^ (piece or b"\x01")[0] or 1]) + data[at + 1 :]
            else:
                data = data[:at] + piece + data[at + (len(piece) if how == "replace" else 0) :]
        return data

    one = st.tuples(
        st.sampled_from(("cut", "flip", "insert", "replace")),
        st.floats(0, 1, allow_nan=False),
        st.binary(max_size=6) | st.sampled_from((b"\0\0\0\0", b"\xff\xff\xff\xff", b"null", b"[[[[", b'""')),
    )
    return st.builds(change, st.sampled_from(samples), st.lists(one, max_size=4)) | st.binary(max_size=200)


any_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from((-1, 0, 1 << 31, 1 << 63, 1 << 64, 10**400, float("inf"), float("nan"), -0.5, 1e300))
    | st.floats()
    | st.sampled_from(("", "x", "a\0b", "\ud800", "../..", "local", "SIGTERM", "9" * 5000)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def _paths(data: Any, here: Path = ()) -> Iterator[Path]:
    yield here
    items: Any = ()
    if isinstance(data, dict):
        items = data.items()
    elif isinstance(data, list):
        items = enumerate(data)
    for name, item in items:
        yield from _paths(item, (*here, name))


@st.composite
def spoilt(draw: st.DrawFn, *documents: Any) -> Any:
    """One of these JSON documents, with up to three values replaced, removed or added."""
    data = copy.deepcopy(draw(st.sampled_from(documents)))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(list(_paths(data))))
        if not path:
            if draw(st.booleans()):
                data = draw(any_json)
            continue
        inside = data
        for name in path[:-1]:
            inside = inside[name]
        how = draw(st.sampled_from(("set", "set", "remove", "borrow")))
        if how == "remove":
            del inside[path[-1]]
        elif how == "borrow":  # a value of another place: a right type in the wrong field
            other = draw(st.sampled_from(list(_paths(data))))
            found = data
            for name in other:
                found = found[name]
            inside[path[-1]] = copy.deepcopy(found)
        else:
            inside[path[-1]] = draw(any_json)
    return data


def is_one_sentence(error: MusterError) -> bool:
    """Return whether a user can read this error: not empty, and no bare `None`, unless that is what was given."""
    given = error.sentence.count("None") > 1
    return bool(error.sentence.strip()) and (given or not error.sentence.endswith(": None"))


def result_or_sentence(read: Callable[[], T], *also: type[Exception]) -> T | None:
    """Return the result; None after an error for users, or one of `also`, which all callers of `read` expect."""
    try:
        return read()
    except MusterError as error:
        assert is_one_sentence(error), repr(error.sentence)
    except also:
        pass
    return None
