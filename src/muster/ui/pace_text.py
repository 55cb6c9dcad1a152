"""The wording of the pace of ranks: which arrive late at their collectives, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from muster.core.layout import named
from muster.core.pace import Cause, CauseKind, NothingSaid, Pace, Slow
from muster.core.plurals import plural
from muster.core.printable import line as safe

_MOST = 5
"""Nodes whose slow ranks are listed."""


def milliseconds(value: float) -> str:
    """Return a short duration as text: `0.4 ms`, `41 ms`, `1.3 s`."""
    if value >= 0.9995:
        return f"{value:.1f} s"
    return f"{value * 1000:.1f} ms" if value < 0.00995 else f"{value * 1000:.0f} ms"


def slow_in_words(slow: Slow, pace: Pace, hosts: Sequence[str] = ()) -> str:
    """Return how late ranks of one node are: `rank 6 (n3) arrived last in 93% of 2000 collectives, …`."""
    host = f" ({safe(hosts[slow.node])})" if len(hosts) > 1 and slow.node < len(hosts) else ""
    of = "" if pace.group in ("", "0") else f" of process group {safe(pace.group)}"
    often = f"arrived last in {slow.last:.0%} of {pace.collectives} collectives{of}"
    return f"{named(slow.ranks)}{host} {often}, median {milliseconds(slow.behind)} behind"


def pace_in_words(
    pace: Pace, hosts: Sequence[str] = (), causes: Mapping[tuple[int, ...], Iterable[Cause]] | None = None
) -> str:
    """Return which ranks are slow, how much time is lost by that, and why; or that no rank is. `causes`: by ranks."""
    if pace.nothing is NothingSaid.NO_RECORDS:
        return "no rank reports when it called its collectives: this needs torch.distributed of torch 2.5 or newer"
    if pace.nothing is NothingSaid.FEW:
        return f"too few collectives to compare the ranks: {pace.collectives} that all ranks have called"
    if not pace.slow:
        apart = f"{plural(pace.collectives, 'collective')}, {milliseconds(pace.interval)} apart"
        return f"no slow rank among {pace.ranks} ranks ({apart}; the last rank is {milliseconds(pace.spread)} behind)"
    lines = []
    for slow in pace.slow[:_MOST]:
        lines.append(slow_in_words(slow, pace, hosts))
        lines += [f"    {cause_in_words(cause, slow)}" for cause in (causes or {}).get(slow.ranks, ())]
    if len(pace.slow) > _MOST:
        lines.append(f"… and ranks on {plural(len(pace.slow) - _MOST, 'other node')}")
    lines.append(f"the other ranks wait for {pace.lost:.0%} of the time ({milliseconds(pace.interval)} per collective)")
    return "\n".join(lines)


def behind_in_words(late: Mapping[int, int]) -> str:
    """Return which ranks report fewer steps than the farthest rank; the last first."""
    order = sorted(late, key=lambda rank: (-late[rank], rank))
    shown = [f"rank {rank} by {plural(late[rank], 'step')}" for rank in order[:_MOST]]
    more = [f"and {plural(len(order) - _MOST, 'other rank')}"] if len(order) > _MOST else []
    return f"behind in muster.progress: {', '.join([*shown, *more])}"


def cause_in_words(cause: Cause, slow: Slow) -> str:
    """Return why ranks are slow."""
    it, its = ("it", "its") if len(slow.ranks) == 1 else ("they", "their")
    share = f"{cause.value:.0%} of the time"
    if cause.kind is CauseKind.WAITED:
        return f"{it} waited for a core {share}: other processes run on {its} cores"
    if cause.kind is CauseKind.THROTTLED:
        return f"the CPU limit of {its} cgroup stopped {'it' if it == 'it' else 'them'} {share}"
    if cause.kind is CauseKind.STOLEN:
        return f"the hypervisor gave {cause.value:.0%} of the CPU time of {its} host to others (steal)"
    return f"{cause.value:.0f} page faults per second waited for a disk"
