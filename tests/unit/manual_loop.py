"""An event loop whose clock is advanced by a test."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from muster.linux.eventloop import EventLoop


class ManualLoop(EventLoop):
    """An event loop with real descriptors; its time passes only in `advance`."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 1000.0

    def time(self) -> float:
        """The time set by the test."""
        return self.clock

    def advance(self, seconds: float, step: float = 0.1) -> None:
        """Let time pass, in steps, so that timers set by timers run too."""
        for _ in range(round(seconds / step)):
            self.clock += step
            self.run_once(0)

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Run until the condition holds, without letting time pass for timers."""
        deadline = time.monotonic() + 120
        while not (found := condition()):
            assert time.monotonic() < deadline, f"not within 120 s: {what}"
            self.run_once(0.01)
        return found
