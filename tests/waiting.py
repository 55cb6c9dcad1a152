"""Waiting in tests: for a condition, never for a fixed time."""

from __future__ import annotations

import time
from typing import Any, Callable


def until(condition: Callable[[], Any], what: str, timeout: float = 120.0) -> Any:
    """Wait for a condition, and return its value; fails with `what` if it does not hold in time."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.01)
