"""Values as YAML, in blocks. Strings that another reading could take for something else are quoted as in JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./=-]*")
_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def scalar(value: object) -> str:
    """Return a value that is no list and no mapping."""
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
        return value if plain else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


class Block(str):
    """A text of several lines, shown as such."""


class Noted(str):
    """A key with a comment above it, after a newline: `Noted("env\\nwhy it is there")`."""


def dump(value: object, indent: int = 0) -> list[str]:
    """Return the lines of a mapping or a list."""
    space = " " * indent
    lines: list[str] = []
    if isinstance(value, Mapping):
        for key, item in value.items():
            key, _, note = str(key).partition("\n")
            lines += [f"{space}# {line}" for line in note.splitlines()]
            lines += _entry(f"{space}{scalar(key)}:", item, indent)
    elif isinstance(value, Sequence):
        for item in value:
            if isinstance(item, (Mapping, list)) and item:
                inner = dump(item, indent + 2)
                first = next(number for number, line in enumerate(inner) if not line.lstrip().startswith("#"))
                lines += inner[:first]
                lines += [f"{space}- {inner[first][indent + 2 :]}", *inner[first + 1 :]]
            else:
                lines += _entry(f"{space}-", item, indent)
    return lines


def _entry(start: str, item: object, indent: int) -> list[str]:
    if isinstance(item, Block) and item.isascii() and item.replace("\n", "").isprintable():
        return [f"{start} |", *(f"{' ' * (indent + 2)}{line}".rstrip() for line in item.splitlines())]
    if isinstance(item, (Mapping, list)):
        empty = "{}" if isinstance(item, Mapping) else "[]"
        return [start, *dump(item, indent + 2)] if item else [f"{start} {empty}"]
    return [f"{start} {scalar(str(item) if isinstance(item, str) else item)}"]
