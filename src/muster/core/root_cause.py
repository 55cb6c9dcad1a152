"""Which rank failed first: by itself before for want of another one, and then by time."""

from __future__ import annotations

from collections.abc import Iterable

from muster.core.results import FailureKind, RankExit


def is_own_failure(end: RankExit) -> bool:
    """It failed by itself: not because it lost a peer, and not because it was asked to end."""
    lost = end.failure is not None and end.failure.kind is FailureKind.PEER_LOST and end.signal is None
    return not (lost or end.by_us or end.by_launcher or end.late)


def root_cause(ends: Iterable[RankExit]) -> RankExit | None:
    """The rank that failed first: one that failed by itself before one that lost a peer, and that before one that its
    launcher has ended; and then by time."""
    failed = [end for end in ends if not end.ok and not end.by_us]
    return min(
        failed,
        key=lambda end: (not is_own_failure(end), end.by_launcher or end.late, _when(end), end.rank),
        default=None,
    )


def _when(end: RankExit) -> float:
    return end.failure.when if end.failure is not None else end.when
