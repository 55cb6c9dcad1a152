"""Choice of the rank that failed first: ranks that failed by themselves come before those that lost a peer."""

from __future__ import annotations

from collections.abc import Iterable

from muster.core.results import FailureKind, RankExit


def is_own_failure(end: RankExit) -> bool:
    """Return whether a rank failed by itself: it neither lost a peer, nor was signalled to exit."""
    lost = end.failure is not None and end.failure.kind is FailureKind.PEER_LOST and end.signal is None
    return not (lost or end.by_muster or end.by_launcher or end.late)


def root_cause(ends: Iterable[RankExit]) -> RankExit | None:
    """Return the rank that failed first; None if none did.

    Ranks that failed by themselves come before those that lost a peer, and these before those terminated by their
    launcher; then by time.
    """
    failed = [end for end in ends if not end.ok and not end.by_muster]
    return min(
        failed,
        key=lambda end: (not is_own_failure(end), end.by_launcher or end.late, _when(end), end.rank),
        default=None,
    )


def _when(end: RankExit) -> float:
    return end.failure.when if end.failure is not None else end.when
