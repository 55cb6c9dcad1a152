"""Which failures are worth a restart: not one that came twice in the same way; and the delay before a restart. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from muster.core.model import RESTART_DELAY
from muster.core.results import Failure, FailureKind, RankExit, Repeated
from muster.core.root_cause import is_own_failure

EARLY = 60.0
"""Seconds from the start of an attempt within which a failure counts as early."""

LONGEST_DELAY = 60.0
"""Maximum seconds between an early failure and the restart, unless --restart-delay is longer.

A run that fails early restarts at most about once a minute then, and one that fails later does so anyway.
"""

TEMPORARY = 75
"""EX_TEMPFAIL of sysexits.h: the program itself says that it is to be started again."""

_FRAME = re.compile(r'^\s*\|?\s*File "(?P<file>[^"]+)", line (?P<line>\d+)')
_LIBRARY = re.compile(r"(^|/)(site-packages|dist-packages|lib/python\d[\d.]*|lib64/python\d[\d.]*)/|^<frozen |/torch/")


class Cause(NamedTuple):
    """What two failures have in common if one is the repetition of the other."""

    exception: str
    """The name of the exception; empty if there was none."""
    place: str
    """The file and line of the script where it was raised: `/home/ann/train.py:21`; empty if unknown."""
    code: int | None
    signal: int | None
    kind: FailureKind = FailureKind.EXIT


_BY_OTHERS = frozenset((FailureKind.MISMATCH, FailureKind.TIMED_OUT, FailureKind.ABSENT))
"""Kinds of failures that involve other ranks, and can recur at the same place of the script."""


class Attempt(NamedTuple):
    """How an attempt failed."""

    first: RankExit | None
    """The rank that failed first; None if the attempt ended for another reason, such as the end of the store."""
    began: float
    """When its ranks started, in seconds since the start of the run."""
    ended: float

    @property
    def early(self) -> bool:
        """Whether it failed soon after its start."""
        when = self.first.when if self.first is not None else self.ended
        return when - self.began < EARLY


def cause_of(end: RankExit) -> Cause | None:
    """Return the cause of a failure; None for a failure that may well not come again.

    That is one of a rank that lost its peers, and one that the program itself calls temporary.
    """
    failure = end.failure
    if failure is not None and failure.kind in _BY_OTHERS:
        # how it exited in the end depends on who noticed first
        place = _place(failure) or failure.place
        return Cause(_exception(failure), place, None, None, failure.kind) if place else None
    if not is_own_failure(end) or end.code == TEMPORARY:
        return None
    return Cause(_exception(failure), _place(failure), end.code, end.signal)


def repeated(now: Attempt, before: Attempt | None) -> Repeated | None:
    """Return the failure that came in the first minute of two attempts in a row; None if it is another one."""
    if before is None or now.first is None or before.first is None or not (now.early and before.early):
        return None
    cause = cause_of(now.first)
    if cause is None or cause != cause_of(before.first):
        return None
    return Repeated(now.first.rank, before.first.rank, cause.exception, cause.place.rpartition("/")[2])


def delay(quick: int, first: float = RESTART_DELAY) -> float:
    """Return the seconds to wait before a restart, after this many attempts in a row that failed early.

    A single failure is no reason to wait; the second one waits for `first` seconds, each further one twice as long.
    """
    return 0.0 if quick < 2 else min(first * 2.0 ** min(quick - 2, 16), max(first, LONGEST_DELAY))


def _exception(failure: Failure | None) -> str:
    if failure is None or failure.kind not in (FailureKind.EXCEPTION, FailureKind.MISMATCH, FailureKind.TIMED_OUT):
        return ""
    name = failure.summary.partition(":")[0]
    return name if name.replace(".", "").isidentifier() else ""


def _place(failure: Failure | None) -> str:
    """Return the last line of the script in a traceback; of a library, if no line of the script is shown."""
    frames = [found for found in map(_FRAME.match, failure.frames if failure is not None else ()) if found is not None]
    own = [found for found in frames if not _LIBRARY.search(found["file"])]
    last = (own or frames)[-1:]
    return f"{last[0]['file']}:{last[0]['line']}" if last else ""
