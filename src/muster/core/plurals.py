"""Numbers with nouns. Pure."""

from __future__ import annotations


def plural(count: int, one: str, several: str = "") -> str:
    """Return a count with its noun, `1 rank` or `2 ranks`; `several` is an irregular plural (`2 processes`)."""
    return f"{count} {one}" if count == 1 else f"{count} {several or one + 's'}"
