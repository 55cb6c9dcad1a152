"""How far ranks are, in steps that they report by `muster.progress`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Progress(NamedTuple):
    """The step that a rank has finished."""

    step: int
    total: int | None = None
    """The number of steps, if the rank said it."""

    @property
    def text(self) -> str:
        """The step as `812/1000`, or `812` if the number of steps is not known."""
        return str(self.step) if self.total is None else f"{self.step}/{self.total}"


def least(reported: Iterable[Progress | None]) -> Progress | None:
    """Return the progress of the rank that is least far, which a run has finished as a whole; None without a report."""
    return min((each for each in reported if each is not None), key=lambda each: each.step, default=None)


MOST_BETWEEN = 1.0
"""Seconds for which the report of a rank may be older than that of another: it is written twice a second."""


def behind(reported: Mapping[int, Progress], rate: float | None) -> dict[int, int]:
    """Return by how many steps ranks are behind the one that is farthest; without those that are not.

    Ranks of a synchronous training differ by at most one step, and reports are up to a second apart. `rate`: steps per
    second of the farthest rank; None if unknown.
    """
    if rate is None or not reported:
        return {}
    farthest = max(each.step for each in reported.values())
    allowed = 1 + rate * MOST_BETWEEN
    return {rank: farthest - each.step for rank, each in reported.items() if farthest - each.step > allowed}
