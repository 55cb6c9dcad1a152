"""How evenly the ranks of a run arrive at their collectives, which are slow, and what keeps them from running."""

from __future__ import annotations

from typing import NamedTuple

from muster.core.results import TextEnum


class Clock(NamedTuple):
    """The clock of a node, compared with that of node 0."""

    ahead: float = 0.0
    """Seconds by which it is ahead."""
    error: float = 0.0
    """Seconds by which that may be wrong."""


class Slow(NamedTuple):
    """Ranks of one node that arrive late."""

    ranks: tuple[int, ...]
    node: int
    last: float
    """The share of the collectives in which one of them arrived last."""
    behind: float
    """How many seconds they arrive after a typical rank: the median."""


class Pressure(NamedTuple):
    """What keeps a rank from running."""

    waited: float = 0.0
    """The share of the time in which a thread of it was ready to run and had no core."""
    throttled: float = 0.0
    """The share of the time for which a CPU limit stopped its cgroup."""
    stolen: float = 0.0
    """The share of its machine's CPU time that the hypervisor gave to others."""
    faults: float = 0.0
    """Page faults per second that had to wait for a disk."""


class CauseKind(TextEnum):
    """Why a rank is slow."""

    THROTTLED = "throttled"
    STOLEN = "stolen"
    WAITED = "waited"
    FAULTS = "faults"


class Cause(NamedTuple):
    """Why a rank is slow: a pressure that the other ranks do not have."""

    kind: CauseKind
    value: float


class NothingSaid(TextEnum):
    """Why nothing can be said about the pace of the ranks."""

    NO_RECORDS = "no records"
    """No rank has told when it called its collectives."""
    FEW = "few"
    """The ranks have called too few collectives together."""


class Pace(NamedTuple):
    """How evenly the ranks of a process group arrive at their collectives."""

    group: str = ""
    collectives: int = 0
    """The number of collectives that were compared."""
    ranks: int = 0
    interval: float = 0.0
    """Seconds from one collective to the next: the median."""
    lost: float = 0.0
    """The share of the time in which a typical rank waits for the slow ones; for the last one, if none is slow."""
    slow: tuple[Slow, ...] = ()
    """The slow ranks, the slowest first."""
    spread: float = 0.0
    """Seconds between the arrival of a typical rank and that of the last one: the median."""
    nothing: NothingSaid | None = None

    @property
    def matters(self) -> bool:
        """Whether ranks are slow enough to be reported."""
        return bool(self.slow)
