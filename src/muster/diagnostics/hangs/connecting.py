"""Ranks that do not get through init_process_group. Pure.

A rank first connects to the store at MASTER_ADDR and MASTER_PORT (the frames of `rendezvous.py`). Then it exchanges
addresses with the other ranks over the store, and connects to each.
"""

from __future__ import annotations

from muster.core.fold import by_value
from muster.core.inspection import Inspection, Snapshot
from muster.core.verdict import Collective, Verdict, VerdictKind
from muster.diagnostics.stack_text import Thread, threads_of

_RENDEZVOUS = "torch/distributed/rendezvous.py"
_SOCKET = "socket "


def verdict(snapshot: Snapshot, ranks: tuple[int, ...], others: tuple[int, ...], call: Collective) -> Verdict:
    """Return the verdict about ranks that are in init_process_group; `others` are past it."""
    inspections = {found.rank: found for found in snapshot.inspections}
    unconnected = tuple(rank for rank in ranks if rank in inspections and _connects(inspections[rank]))
    rest = tuple(rank for rank in (*ranks, *others) if rank not in unconnected)
    if unconnected and rest:
        return Verdict(VerdictKind.NOT_CONNECTED, unconnected, rest, call)
    if others and len(ranks) < len(others):
        return Verdict(VerdictKind.NOT_CONNECTED, ranks, others, call)
    for facts in (_address, _size):
        told = by_value((rank, facts(inspections[rank])) for rank in ranks if rank in inspections)
        most = max(told.values(), key=len, default=[])
        if len(told) > 1 and 2 * len(most) > len(ranks):
            odd = tuple(rank for rank in ranks if rank not in most)
            return Verdict(VerdictKind.NOT_CONNECTED, odd, tuple(most), call)
    return Verdict(VerdictKind.NOT_CONNECTED, (), ranks, call)


def _connects(inspection: Inspection) -> bool:
    """Return whether a rank still connects to the store."""
    return any(thread.has(_RENDEZVOUS) for thread in threads_of(inspection.stacks))


def _address(inspection: Inspection) -> str:
    """Return the address of the socket that the main thread of a rank waits for; empty if unknown."""
    target = inspection.threads[0].target if inspection.threads else ""
    return target[len(_SOCKET) :] if target.startswith(_SOCKET) else ""


def _size(inspection: Inspection) -> int:
    """Return how many ranks the default process group is to have; 0 if unknown."""
    return max((len(state.ranks) for state in inspection.groups if state.description == "default_pg"), default=0)


def phase_in_words(target: str, thread: Thread) -> str:
    """Return how far a rank is whose main thread waits for `target`."""
    if not thread.has(_RENDEZVOUS):
        return "connected to the store, waiting for the other ranks"
    address = target[len(_SOCKET) :] if target.startswith(_SOCKET) else "the store"
    return f"connecting to {address} (MASTER_ADDR, MASTER_PORT)"
