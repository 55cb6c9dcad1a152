"""Grouping of equal values. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value", bound=Hashable)


def by_value(pairs: Iterable[tuple[Key, Value]]) -> dict[Value, list[Key]]:
    """Group the keys of (key, value) pairs by value, preserving the order of both."""
    found: dict[Value, list[Key]] = {}
    for key, value in pairs:
        found.setdefault(value, []).append(key)
    return found
