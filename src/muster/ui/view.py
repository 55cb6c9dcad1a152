"""What whoever watches a run must be able to do: the terminal and JSON lines are views (`terminal.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from muster.core.results import RunResult


class View(Protocol):
    """Whoever watches a run: the terminal, JSON lines, or nobody."""

    wants: bool | Sequence[int]
    """Which ranks' output is wanted: True for all, False for none, or a list."""
    operand: str
    """What names the run in commands that are shown."""
    put: Callable[[int, bytes], None]
    """Writes bytes to a descriptor."""

    def begin(self, facts: Mapping[str, Any]) -> None:
        """The ranks are about to start."""

    def output(self, rank: int, stream: str, data: bytes) -> None:
        """A rank wrote these bytes."""

    def pause(self) -> None:
        """No rank has written for a moment."""

    def say(self, text: str) -> None:
        """Words for the person."""

    def event(self, event: Mapping[str, Any]) -> None:
        """Something happened, as it stands in events.jsonl."""

    def finish(self, outcome: RunResult) -> None:
        """It is over."""


class Silent:
    """A view that shows nothing, to be extended by what shall be seen."""

    def __init__(self, wants: bool | Sequence[int] = False) -> None:
        self.wants: Any = wants
        self.put: Callable[[int, bytes], None] = lambda fd, data: None
        self.operand = ""
        """What names the run in a command that is shown."""

    def begin(self, facts: Mapping[str, Any]) -> None:
        """The ranks are about to start."""

    def output(self, rank: int, stream: str, data: bytes) -> None:
        """A rank wrote these bytes to `stream`, which is `out` or `err`."""

    def pause(self) -> None:
        """No rank has written for a moment."""

    def say(self, text: str) -> None:
        """Words for the person."""

    def event(self, event: Mapping[str, Any]) -> None:
        """Something happened, as it stands in events.jsonl."""

    def finish(self, outcome: RunResult) -> None:
        """It is over."""
