"""Questions before something that cannot be undone."""

from __future__ import annotations

import sys

from muster.errors import InvalidRequest


def agreed(deed: str, hint: str) -> bool:
    """Whether the person at the terminal says yes to `delete 3 runs`.

    Raises `InvalidRequest` with this hint where there is no terminal: silence is no yes.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidRequest(f"to {deed} wants a yes, and there is no terminal to ask at", hint)
    try:
        answer = input(f"{deed}? [y/N] ")
    except EOFError:  # Ctrl-D
        answer = ""
        print()
    return answer.strip().lower() in ("y", "yes")
