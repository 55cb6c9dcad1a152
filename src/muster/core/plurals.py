"""Numbers with nouns. Pure."""

from __future__ import annotations

from collections.abc import Iterable


def plural(count: int, one: str, several: str = "") -> str:
    """Return a count with its noun, `1 rank` or `2 ranks`; `several` is an irregular plural (`2 processes`)."""
    return f"{count} {one}" if count == 1 else f"{count} {several or one + 's'}"


def listed(words: Iterable[str], last: str = "and") -> str:
    """Return words for a sentence: `a`, `a and b`, `a, b and c`; `last` stands before the last one."""
    found = list(words)
    return f"{', '.join(found[:-1])} {last} {found[-1]}" if len(found) > 1 else "".join(found)
