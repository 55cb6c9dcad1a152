"""The status of a sweep, from that of its points. Asks nothing: see `reconcile.point_statuses`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from muster.client.status import RunStatus
from muster.core.results import RunState
from muster.core.sweep import Point, counts_in_words, goes_on
from muster.rundir.run import Run

_WORDS: Mapping[RunState, str] = {
    RunState.SUCCEEDED: "ok",
    RunState.FAILED: "failed",
    RunState.TIMED_OUT: "timed out",
    RunState.ERROR: "failed",
    RunState.INTERRUPTED: "interrupted",
    RunState.KILLED: "killed",
    RunState.RUNNING: "running",
    RunState.PENDING: "pending",
}
"""What states are called where points are counted; others have their own name."""

_ORDER = ("ok", "failed", "timed out", "interrupted", "killed", "running", "pending")


class PointStatus(NamedTuple):
    """A point of a sweep, and its newest run."""

    point: Point
    run: Run | None
    """None if it has not been started or submitted."""
    status: RunStatus

    @property
    def code(self) -> int | None:
        """The exit code of its run; None if it is not known."""
        return self.status.outcome.code if self.status.outcome is not None else None


def counts(points: Iterable[PointStatus]) -> dict[str, int]:
    """Return how many points are in which state, by the words for users."""
    found = dict.fromkeys(_ORDER, 0)
    for one in points:
        word = "not started" if one.run is None and not one.status.state.lives else str(one.status.state)
        word = _WORDS.get(one.status.state, word) if word != "not started" else word
        found[word] = found.get(word, 0) + 1
    return {word: count for word, count in found.items() if count}


def deciding(points: Sequence[PointStatus], chain: bool = False) -> PointStatus:
    """Return the point whose end is that of the sweep: the first one that did not succeed, or the last one.

    In a chain a part may reach its time limit, and the next one goes on.
    """
    for one in points:
        if one.status.state is not RunState.SUCCEEDED and not (chain and goes_on(one.status.state)):
            return one
    return points[-1]


def exit_code(points: Sequence[PointStatus], chain: bool = False) -> int:
    """Return the exit code of a sweep: 0 if all points succeeded, otherwise that of the point that decides."""
    one = deciding(points, chain)
    return 0 if one.status.state is RunState.SUCCEEDED else one.code or 125


def whole(points: Sequence[PointStatus], chain: bool = False) -> RunStatus:
    """Return the status of a sweep: it lives as long as one of its points does."""
    states = [one.status.state for one in points]
    words = counts_in_words(counts(points))
    if RunState.RUNNING in states:
        return RunStatus(RunState.RUNNING, words)
    if RunState.PENDING in states:
        begun = any(state.ended for state in states)
        return RunStatus(RunState.RUNNING if begun else RunState.PENDING, words)
    state = RunState.UNKNOWN if RunState.UNKNOWN in states else deciding(points, chain).status.state
    return RunStatus(state, words)
