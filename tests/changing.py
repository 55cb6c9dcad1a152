"""Changes to nested data, so that a test can break one value at a time."""

from __future__ import annotations

from typing import Any, Callable

Change = Callable[[dict[str, Any]], object]


def set_to(*path: Any) -> Change:
    """Set the value at a path of keys and indices, whose last item is the new value."""

    def change(known: dict[str, Any]) -> None:
        *way, last, value = path
        for key in way:
            known = known[key]
        known[last] = value

    return change
