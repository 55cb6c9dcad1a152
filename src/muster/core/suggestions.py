"""Suggestions of similar names for hints. There is none for a name that is far off: a wrong one misleads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType


def nearest(word: str, names: Iterable[str]) -> str | None:
    """Return the name that differs from a word by a typo, or the only one it is a prefix of; None if there is none.

    Names of one or two letters are never suggested, since each of them is similar to any other.
    """
    known = list(names)
    bare = word.lstrip("-")
    if len(bare) < 2:
        return None
    distances = {name: _edits(bare, name.lstrip("-")) for name in known if len(name.lstrip("-")) > 1}
    closest = min(distances, key=lambda name: distances[name], default=None)
    if closest is not None and distances[closest] <= max(1, len(bare) // 4):
        return closest
    begun = [name for name in known if len(bare) > 2 and name.lstrip("-").startswith(bare)]
    return begun[0] if len(begun) == 1 else None


def did_you_mean(name: str, names: Iterable[str], others: Mapping[str, str] = MappingProxyType({})) -> str | None:
    """Return a hint that suggests the nearest name; None if none is near enough.

    `others`: what people call some of these names elsewhere.
    """
    found = others.get(name) or nearest(name, names)
    return f"did you mean `{found}`?" if found else None


def _edits(one: str, other: str) -> int:
    """Return the edit distance of two words: insertions, deletions, replacements and swaps of neighbouring letters."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for row, letter in enumerate(one, 1):
        current = [row]
        for column, against in enumerate(other, 1):
            cost = min(last[column] + 1, current[-1] + 1, last[column - 1] + (letter != against))
            if row > 1 and column > 1 and letter == other[column - 2] and one[row - 2] == against:
                cost = min(cost, before[column - 2] + 1)
            current.append(cost)
        before, last = last, current
    return last[-1]
