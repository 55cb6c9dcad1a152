"""Which ranks arrive late at the collectives, and how much time the others lose by that. Pure.

All ranks of a process group wait in a collective until the last one has called it. So the times at which the ranks call
the same collective, on one clock, say who was waited for. A rank counts as slow if it is usually late, by more than the
clocks of the hosts may be wrong, and if the others lose a noticeable part of the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median, median_low

from muster.core.inspection import CollectiveTimes
from muster.core.pace import Cause, CauseKind, Clock, NothingSaid, Pace, Pressure, Slow

FIRST = 10
"""Number of collectives at the start of a process group that are left out: ranks start at their own pace."""

FEWEST = 50
"""Number of collectives below which nothing is said."""

USUALLY = 0.6
"""Share of the collectives in which a slow rank is late."""

NOISE = 0.001
"""Seconds by which ranks may arrive later than others for no reason that matters."""

MEASURED = 0.004
"""Seconds by which the measured difference between the clocks of two hosts may be wrong."""

NOTICEABLE = 0.05
"""Share of the time for which the others wait, from which on it matters."""


_FROM: Mapping[CauseKind, float] = {
    CauseKind.THROTTLED: 0.05,
    CauseKind.STOLEN: 0.05,
    CauseKind.WAITED: 0.1,
    CauseKind.FAULTS: 20.0,
}
"""Values from which on a pressure explains that a rank is slow; a throttled rank waits for a core, too."""


def clocks_of(ahead: Sequence[float]) -> dict[int, Clock]:
    """Return the clocks of the nodes, given by how many seconds each is ahead of that of node 0."""
    return {node: Clock(seconds, MEASURED if node else 0.0) for node, seconds in enumerate(ahead)}


def find_slow(
    times: Iterable[CollectiveTimes], node_of: Mapping[int, int], clocks: Mapping[int, Clock] | None = None
) -> Pace:
    """Return the pace of the process group in which most time is lost.

    `node_of`: the node of each rank. `clocks`: the clock of each node; one that is missing agrees with that of node 0.
    """
    clocks = clocks or {}
    groups: dict[str, dict[int, dict[int, float]]] = {}
    for told in times:
        ahead = clocks.get(node_of.get(told.rank, 0), Clock()).ahead
        arrivals = groups.setdefault(told.group, {}).setdefault(told.rank, {})
        arrivals.update((seq, created - ahead) for seq, created in zip(told.seqs, told.created) if seq > FIRST)
    found = [_pace(name, ranks, node_of, clocks) for name, ranks in groups.items() if len(ranks) > 1]
    known = [pace for pace in found if pace.nothing is None]
    if known:
        return max(known, key=lambda pace: (pace.matters, pace.lost))
    if found:
        return max(found, key=lambda pace: pace.collectives)
    return Pace(nothing=NothingSaid.NO_RECORDS)


def _pace(
    group: str, ranks: Mapping[int, Mapping[int, float]], node_of: Mapping[int, int], clocks: Mapping[int, Clock]
) -> Pace:
    together = sorted(set.intersection(*(set(arrivals) for arrivals in ranks.values())))
    order = sorted(ranks)
    if len(together) < FEWEST:
        return Pace(group, len(together), len(order), nothing=NothingSaid.FEW)
    rows = [[ranks[rank][seq] for rank in order] for seq in together]
    typical = [median_low(row) for row in rows]
    late = {rank: [row[at] - usual for row, usual in zip(rows, typical)] for at, rank in enumerate(order)}
    nodes = {node_of.get(rank, 0) for rank in order}
    slow = {rank for rank in order if _is_late(late[rank], _margin(node_of.get(rank, 0), nodes, clocks))}
    ends = [max(row[at] for at, rank in enumerate(order) if rank in slow or not slow) for row in rows]
    lost = _covered(typical, ends) / max(typical[-1] - typical[0], 1e-9)
    if lost < NOTICEABLE:
        slow = set()
    last = [order[row.index(max(row))] for row in rows]
    return Pace(
        group,
        len(rows),
        len(order),
        median(after - before for before, after in zip(typical, typical[1:])),
        min(lost, 1.0),
        _by_node(slow, node_of, late, last),
        median(max(row) - usual for row, usual in zip(rows, typical)),
    )


def _is_late(late: Sequence[float], margin: float) -> bool:
    return sum(seconds > margin for seconds in late) >= USUALLY * len(late)


def _margin(node: int, nodes: Iterable[int], clocks: Mapping[int, Clock]) -> float:
    """Return the seconds by which a rank of a node may seem to be late because of the clocks."""
    others = [clocks.get(other, Clock()).error for other in nodes if other != node]
    return NOISE + (clocks.get(node, Clock()).error + max(others) if others else 0.0)


def _covered(begins: Sequence[float], ends: Sequence[float]) -> float:
    """Return the seconds in at least one of these spans, whose begins are almost in order."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(zip(begins, ends)):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def _by_node(
    slow: Iterable[int], node_of: Mapping[int, int], late: Mapping[int, Sequence[float]], last: Sequence[int]
) -> tuple[Slow, ...]:
    ranks_of: dict[int, list[int]] = {}
    for rank in sorted(slow):
        ranks_of.setdefault(node_of.get(rank, 0), []).append(rank)
    found = [
        Slow(
            tuple(ranks),
            node,
            sum(rank in ranks for rank in last) / len(last),
            max(median(late[rank]) for rank in ranks),
        )
        for node, ranks in ranks_of.items()
    ]
    return tuple(sorted(found, key=lambda ranks: -ranks.behind))


def causes_of(ranks: Iterable[int], pressures: Mapping[int, Pressure], slow: Iterable[int]) -> tuple[Cause, ...]:
    """Return why these ranks are slow, as far as it shows: pressures at least twice as high as those of a usual rank.

    `slow`: all slow ranks.
    """
    mine = [pressures[rank] for rank in ranks if rank in pressures]
    excluded = set(slow)
    others = [pressure for rank, pressure in pressures.items() if rank not in excluded]
    found = []
    for kind, least in _FROM.items():
        value = median(getattr(pressure, kind.value) for pressure in mine) if mine else 0.0
        usual = median(getattr(pressure, kind.value) for pressure in others) if others else 0.0
        if value >= max(least, 2 * usual):
            found.append(Cause(kind, value))
    return tuple(found)
