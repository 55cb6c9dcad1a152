"""The interface of views of a run, such as the terminal and JSON lines (`terminal.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from muster.core.results import RunResult


class View(Protocol):
    """A view of a run: the terminal, JSON lines, or none."""

    wants: bool | Sequence[int]
    """The ranks whose output is wanted: True for all, False for none, or a list."""
    operand: str
    """The name of the run in displayed commands."""
    put: Callable[[int, bytes], None]
    """Writes bytes to a descriptor."""

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Show that the ranks are about to start."""

    def output(self, rank: int, stream: str, data: bytes) -> None:
        """Show output of a rank; `stream` is `out` or `err`."""

    def pause(self) -> None:
        """Flush incomplete lines, as no rank has written for a moment."""

    def say(self, text: str) -> None:
        """Show a message for the user."""

    def event(self, event: Mapping[str, Any]) -> None:
        """Show an event, as in events.jsonl."""

    def finish(self, outcome: RunResult) -> None:
        """Show the result of the run."""


class Silent:
    """A view that shows nothing, as a base class."""

    def __init__(self, wants: bool | Sequence[int] = False) -> None:
        self.wants: Any = wants
        self.put: Callable[[int, bytes], None] = lambda fd, data: None
        self.operand = ""
        """The name of the run in displayed commands."""

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Called when the ranks are about to start."""

    def output(self, rank: int, stream: str, data: bytes) -> None:
        """Called with output of a rank; `stream` is `out` or `err`."""

    def pause(self) -> None:
        """Called when no rank has written for a moment."""

    def say(self, text: str) -> None:
        """Called with a message for the user."""

    def event(self, event: Mapping[str, Any]) -> None:
        """Called with an event, as in events.jsonl."""

    def finish(self, outcome: RunResult) -> None:
        """Called with the result of the run."""
