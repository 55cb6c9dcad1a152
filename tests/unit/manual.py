"""An event loop whose clock a test moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from waiting import until

from muster.agent.eventloop import EventLoop


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
        return until(lambda: (self.run_once(0), condition())[1], what, 30)
