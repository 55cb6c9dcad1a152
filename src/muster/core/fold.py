"""Equal things are told once. Touches nothing."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value", bound=Hashable)


def by_value(pairs: Iterable[tuple[Key, Value]]) -> dict[Value, list[Key]]:
    """The keys of each value, of (key, value); both in the order in which they come."""
    found: dict[Value, list[Key]] = {}
    for key, value in pairs:
        found.setdefault(value, []).append(key)
    return found
