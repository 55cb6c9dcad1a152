"""How long an agent waits for the answers of its ranks, which may give none.

Elapsed time alone is no measure. While a busy machine, a paused virtual machine or a cgroup quota gives an agent no CPU
time, its ranks get none either, and cannot answer. So of the time between two checks only the usual interval counts,
or the CPU time that the agent itself has used in it.
"""

from __future__ import annotations

import time

_INTERVAL = 0.02
"""Maximum number of seconds that count between two checks. An agent checks every 5 ms."""


class Patience:
    """A number of seconds to wait, counted from now on."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self._checked, self._worked = time.monotonic(), time.thread_time()

    def left(self) -> float:
        """Return the number of seconds left."""
        now, worked = time.monotonic(), time.thread_time()
        self._left -= max(min(now - self._checked, _INTERVAL), worked - self._worked)
        self._checked, self._worked = now, worked
        return self._left

    def over(self) -> bool:
        """Return whether the time is over."""
        return self.left() <= 0.0
