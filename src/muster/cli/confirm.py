"""Confirmation of actions that cannot be undone."""

from __future__ import annotations

import sys

from muster.errors import InvalidRequest


def agreed(deed: str, hint: str) -> bool:
    """Return whether the user at the terminal confirms an action such as `delete 3 runs`.

    Raises `InvalidRequest` with this hint if there is no terminal.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidRequest(f"cannot ask for confirmation to {deed}: no terminal", hint)
    try:
        answer = input(f"{deed}? [y/N] ")
    except EOFError:  # Ctrl-D
        answer = ""
        print()
    return answer.strip().lower() in ("y", "yes")
