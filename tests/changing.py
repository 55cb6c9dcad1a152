"""Changes to what a test has made by hand: one thing wrong at a time."""

from __future__ import annotations

from typing import Any, Callable

Change = Callable[[dict[str, Any]], object]


def set_to(*path: Any) -> Change:
    """Set what lies at a path to its last item."""

    def change(known: dict[str, Any]) -> None:
        *way, last, value = path
        for key in way:
            known = known[key]
        known[last] = value

    return change
