"""The output of ranks on `sys.stdout` and `sys.stderr` of this program: a notebook cell, a test, a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial

from muster.core.model import Plan
from muster.core.results import RunResult
from muster.core.roles import ranks_of
from muster.ui.output_writer import OutputWriter
from muster.ui.terminal import LinePrefixer, prefixes
from muster.ui.view import Silent

LOG = logging.getLogger("muster")
"""Warnings of muster, which Python shows on stderr by default, and progress messages at the level INFO."""


def tell(text: str) -> None:
    """Log a message for the user."""
    if text.startswith("warning: "):
        LOG.warning(text[len("warning: ") :])
    else:
        LOG.info(text)


class Quiet(Silent):
    """A view that only logs muster's messages."""

    def say(self, text: str) -> None:
        """Log a message."""
        tell(text)


class Printed(Quiet):
    """Prints the lines of ranks with prefixes, through the objects `sys.stdout` and `sys.stderr`.

    A single rank has no prefix, unless one is given. Slow printing slows nothing but itself: at most 1 MB is ahead.
    """

    def __init__(self, plan: Plan, wants: bool | Sequence[int], prefix: str | None) -> None:
        self._writer: OutputWriter | None = None
        super().__init__(wants)
        where = {
            rank.rank: (node.host.name, rank.local_rank, node.number) for node in plan.nodes for rank in node.ranks
        }
        if prefix is None and len(where) == 1:
            prefix = ""
        self._lines = LinePrefixer(prefixes(where, prefix, False, roles=ranks_of(plan)), False)

    @property
    def put(self) -> Callable[[int, bytes], None]:
        """Return the function that prints bytes."""
        return self._put

    @put.setter
    def put(self, put: Callable[[int, bytes], None]) -> None:
        owner = getattr(put, "__self__", None)
        self._writer = owner if isinstance(owner, OutputWriter) else None

    def _put(self, fd: int, data: bytes) -> None:
        if not data:
            return
        show = partial(_print, fd, data.decode(errors="replace"))
        if self._writer is not None:
            self._writer.do(show)  # in a thread of its own
        else:
            show()

    def output(self, rank: int, stream: str, data: bytes) -> None:
        """Print output of a rank."""
        self._put(1 if stream == "out" else 2, self._lines.feed(rank, stream, data))

    def finish(self, outcome: RunResult) -> None:
        """Print lines without an end."""
        for fd, stream in ((1, "out"), (2, "err")):
            self._put(fd, self._lines.rest([stream]))


def _print(fd: int, text: str) -> None:
    file = sys.stdout if fd == 1 else sys.stderr
    try:
        file.write(text)
        file.flush()
    except (OSError, ValueError, AttributeError):  # closed, or None: the logs have everything
        pass
