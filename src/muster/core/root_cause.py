"""Choice of the rank that failed first: ranks that failed by themselves come before those that lost a peer.

If no rank failed by itself, the cause is a rank that the others missed: one that left with status 0 while they still
worked, or one that did not come to a collective.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from muster.core.results import SIGABRT, Failure, FailureKind, RankExit

CASCADE = frozenset(
    (FailureKind.PEER_LOST, FailureKind.TIMED_OUT, FailureKind.NO_CONNECTION, FailureKind.MISMATCH),
)
"""Kinds of failures that another rank may have caused."""

_ERROR = re.compile(r"\berror\b|\bno module named\b", re.IGNORECASE)
"""Last words that tell why a rank exited; a warning does not."""

ALIKE = 5.0
"""Seconds within which equal failures of several ranks are reported as one."""


class Missed(NamedTuple):
    """Ranks that others waited for when they failed, as an inspection shows."""

    ranks: tuple[int, ...]
    words: str
    place: str = ""


def is_own_failure(end: RankExit) -> bool:
    """Return whether a rank failed by itself: it neither missed a peer, nor was signalled to exit."""
    return not (_is_cascade(end) or end.by_muster or end.by_launcher or end.late)


def _is_cascade(end: RankExit) -> bool:
    # torch's watchdog aborts the process
    return end.failure is not None and end.failure.kind in CASCADE and end.signal in (None, SIGABRT)


def root_cause(ends: Iterable[RankExit], missed: Missed | None = None) -> RankExit | None:
    """Return the rank that failed first, or that the others missed; None if none did.

    `missed` are the ranks that the others waited for, as far as an inspection shows.

    Ranks that failed by themselves come before those that missed a peer, and these before those terminated by their
    launcher; then by time.
    """
    everyone = list(ends)
    failed = [end for end in everyone if not end.ok and not end.by_muster]
    own = [end for end in failed if is_own_failure(end)]
    if own:
        return min(own, key=_order)
    cascade = [end for end in failed if not (end.by_launcher or end.late)]
    if cascade:
        return _missed(cascade, everyone, missed) or min(cascade, key=_order)
    return min(failed, key=_order, default=None)


def status_of(cause: RankExit, ends: Iterable[RankExit]) -> int:
    """Return the exit status of a run with this root cause: its own, or else that of the first rank that missed it."""
    absent = cause.failure is not None and cause.failure.kind is FailureKind.ABSENT
    if not (cause.ok or cause.by_muster or absent):
        return cause.status
    failed = [end for end in ends if not (end.ok or end.by_muster or end.by_launcher)]
    return min(failed, key=_order).status if failed else cause.status


def explains(left: Iterable[RankExit], end: RankExit) -> bool:
    """Return whether one of these exits explains that a rank missed a peer: no better cause is to be waited for."""
    if end.by_launcher or end.late or (end.failure is not None and end.failure.kind is not FailureKind.PEER_LOST):
        return True
    return any(other.ok for other in left)


def alike(cause: RankExit, ends: Iterable[RankExit]) -> tuple[RankExit, ...]:
    """Return the ranks that failed by themselves like this one, at the same place and almost at the same time."""
    if cause.failure is None or not is_own_failure(cause):
        return (cause,)
    if cause.failure.kind is FailureKind.EXIT and cause.code and cause.failure.summary:
        return tuple(end for end in ends if _exited_like(end, cause))
    if cause.failure.kind is not FailureKind.EXCEPTION:
        return (cause,)
    return tuple(
        end
        for end in ends
        if end.failure is not None
        and not end.ok
        and (is_own_failure(end) or _failed_anyway(end, cause.failure))
        and (end.failure.kind, end.failure.place) == (cause.failure.kind, cause.failure.place)
        and _name(end.failure.summary) == _name(cause.failure.summary)
        and abs(end.failure.when - cause.failure.when) <= ALIKE
    )


def _exited_like(end: RankExit, cause: RankExit) -> bool:
    """Return whether a rank exited with the same status and last words, as all do after a wrong argument.

    It did so by itself, also if it was asked to exit just then.
    """
    said = end.failure is not None and cause.failure is not None and end.failure.summary == cause.failure.summary
    if end.by_muster and (end.failure is None or not _ERROR.search(end.failure.summary)):
        return False  # its handler may exit with the same status, after a warning that all ranks have printed
    return said and end.code == cause.code and not (end.by_launcher or end.late) and abs(end.when - cause.when) <= ALIKE


def _failed_anyway(end: RankExit, like: Failure) -> bool:
    """Return whether a rank that was asked to exit met the very same error instead, which no handler raises."""
    return end.by_muster and end.signal is None and end.failure is not None and end.failure.summary == like.summary


def _name(summary: str) -> str:
    return summary.partition(":")[0]


def _missed(cascade: Sequence[RankExit], everyone: Sequence[RankExit], seen: Missed | None) -> RankExit | None:
    """Return the rank that these missed, as far as it is known."""
    first = min(cascade, key=_order)
    replaced = [end for end in cascade if end.failure is not None and end.failure.own_before]
    if replaced:
        return min(replaced, key=_order)
    # by the times of exits: a peer may notice before the exit of the one that left is seen
    left = [end for end in everyone if end.ok and end.when <= first.when]
    if left:
        return min(left, key=lambda end: (end.when, end.rank))
    complaints = [end.failure for end in cascade if end.failure is not None]
    if seen is not None and any(failure.kind is not FailureKind.PEER_LOST for failure in complaints):
        odd = [end for end in everyone if end.rank in seen.ranks]
        # some of them were about to complain themselves when they were inspected
        silent = [end for end in odd if end not in cascade]
        blamed_too_many = 0 < len(silent) < len(odd)
        odd = silent or odd
        if odd and len(odd) < len(everyone):
            others = tuple(end.rank for end in odd[1:])
            summary = max((_failure_of(first), *complaints), key=_tells).summary
            told = Failure(FailureKind.ABSENT, _when(first), seen.words, (summary,), seen.place, blames=others)
            if blamed_too_many:
                told = told._replace(summary=summary, proven=False)
            return odd[0]._replace(failure=told)
    complaining = {end.rank for end in cascade}
    blamed = {rank for failure in complaints for rank in failure.blames} - complaining
    late = [failure for failure in complaints if failure.kind is FailureKind.TIMED_OUT]
    if not blamed and late:
        unreached = [end for end in cascade if end.failure and end.failure.kind is FailureKind.NO_CONNECTION]
        if unreached:
            return min(unreached, key=_order)
        blamed = {end.rank for end in everyone if end.by_muster}
    found = [end for end in everyone if end.rank in blamed]
    if not found or len(found) >= len(everyone):
        return None
    telling = (failure for failure in complaints if blamed & set(failure.blames))
    told = next(telling, (late or complaints)[0])
    others = tuple(end.rank for end in found[1:])
    failure = Failure(FailureKind.ABSENT, told.when, told.summary, told.frames, proven=False, blames=others)
    return found[0]._replace(failure=failure)


def _tells(complaint: Failure) -> int:
    """Return how much a complaint tells about the ranks that were missed."""
    return 2 if complaint.blames else 1 if complaint.kind is FailureKind.MISMATCH else 0


def _failure_of(end: RankExit) -> Failure:
    return end.failure if end.failure is not None else Failure(FailureKind.EXIT, end.when)


def _order(end: RankExit) -> tuple[float, int]:
    return (_when(end), end.rank)


def _when(end: RankExit) -> float:
    return end.failure.when if end.failure is not None else end.when
