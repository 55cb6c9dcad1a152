"""An event loop whose clock a test moves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from muster.linux.eventloop import EventLoop


class ManualLoop(EventLoop):
    """Descriptors are as always; its time passes in `advance` alone."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 1000.0

    def time(self) -> float:
        """What the test has made of it."""
        return self.clock

    def advance(self, seconds: float, step: float = 0.1) -> None:
        """Let time pass, in steps, so that what follows from a timer has its time too."""
        for _ in range(round(seconds / step)):
            self.clock += step
            self.run_once(0)

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Run until this is so, without any time that passes for timers."""
        deadline = time.monotonic() + 30
        while not (found := condition()):
            assert time.monotonic() < deadline, f"not within 30 s: {what}"
            self.run_once(0.01)
        return found
