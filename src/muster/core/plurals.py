"""Numbers with their nouns. Touches nothing."""

from __future__ import annotations


def plural(count: int, one: str, several: str = "") -> str:
    """`1 rank`, `2 ranks`; `several` says what an `s` does not: `2 processes`, `2 hosts were`."""
    return f"{count} {one}" if count == 1 else f"{count} {several or one + 's'}"
