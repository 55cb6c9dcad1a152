"""Ranks that do not get through init_process_group. Pure.

A rank first connects to the store at MASTER_ADDR and MASTER_PORT (the frames of `rendezvous.py`). Then it exchanges
addresses with the other ranks over the store, and connects to each.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from muster.core.fold import by_value
from muster.core.inspection import Inspection, Snapshot
from muster.core.verdict import Collective, Verdict, VerdictKind
from muster.diagnostics.stack_text import threads_of

_RENDEZVOUS = "torch/distributed/rendezvous.py"
_SOCKET = "socket "

_SHOWN = 3
"""Ranks that have a sentence of their own."""


class Phase(IntEnum):
    """How far a rank is in init_process_group."""

    STORE = 0
    """It connects to the store."""
    KEYS = 1
    """It waits for the addresses of other ranks, which are in the store once they have called the function."""
    PEERS = 2
    """It has them, and connects to the other ranks."""


def phase_of(inspection: Inspection) -> Phase:
    """Return how far a rank is."""
    if any(thread.has(_RENDEZVOUS) for thread in threads_of(inspection.stacks)):
        return Phase.STORE
    if inspection.waits:
        asks = any(f"TCPStore__{name}" in wait for wait in inspection.waits for name in ("wait", "get", "check"))
        return Phase.KEYS if asks else Phase.PEERS
    return Phase.KEYS if _address(inspection) else Phase.PEERS


def have_all_joined(snapshot: Snapshot, ranks: tuple[int, ...]) -> bool:
    """Return whether all ranks have called init_process_group: one of those in it has the addresses of all."""
    return any(phase_of(found) is Phase.PEERS for found in snapshot.inspections if found.rank in ranks)


def verdict(snapshot: Snapshot, ranks: tuple[int, ...], others: tuple[int, ...], call: Collective) -> Verdict:
    """Return the verdict about ranks that are in init_process_group; `others` are past it."""
    inspections = {found.rank: found for found in snapshot.inspections if found.rank in ranks}
    renamed = tuple(rank for rank, found in inspections.items() if dict(found.env).get("RANK", str(rank)) != str(rank))
    if renamed and 2 * len(renamed) < len(inspections):
        notes = tuple(f"RANK of rank {rank} is {dict(inspections[rank].env)['RANK']}." for rank in renamed[:_SHOWN])
        return Verdict(VerdictKind.NOT_CONNECTED, renamed, (), call, notes=notes)
    phases = {rank: phase_of(found) for rank, found in inspections.items()}
    for phase in (Phase.STORE, Phase.KEYS):
        odd = tuple(rank for rank in ranks if phases.get(rank) is phase)
        rest = tuple(sorted(rank for rank in (*ranks, *others) if rank not in odd))
        if odd and rest:
            note = _store_of(inspections, rest) if phase is Phase.STORE else _WRONG_SIZE
            notes = _differences(inspections, odd) or ((note,) if note else ())
            return Verdict(VerdictKind.NOT_CONNECTED, odd, rest, call, notes=notes)
        if odd:
            break
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE"):
        values = by_value((rank, dict(found.env).get(name, "")) for rank, found in inspections.items() if found.env)
        most = max(values.values(), key=len, default=[])
        if len(values) > 1 and 2 * len(most) > len(ranks):
            odd = tuple(rank for rank in ranks if rank not in most)
            notes = _differences(inspections, odd)
            return Verdict(VerdictKind.NOT_CONNECTED, odd, tuple(most), call, notes=notes)
    addresses = by_value((rank, _address(found)) for rank, found in inspections.items())
    most = max(addresses.values(), key=len, default=[])
    if len(addresses) > 1 and 2 * len(most) > len(ranks):
        odd = tuple(rank for rank in ranks if rank not in most)
        return Verdict(VerdictKind.NOT_CONNECTED, odd, tuple(most), call)
    return Verdict(VerdictKind.NOT_CONNECTED, (), ranks, call)


_WRONG_SIZE = "All ranks have joined by now: a wrong world_size (WORLD_SIZE) or rank (RANK) is likely."


def _differences(inspections: Mapping[int, Inspection], odd: tuple[int, ...]) -> tuple[str, ...]:
    """Return a sentence for each variable that the odd ranks have other than all others."""
    found = []
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE"):
        here = {dict(one.env).get(name) for rank, one in inspections.items() if rank in odd and one.env}
        there = {dict(one.env).get(name) for rank, one in inspections.items() if rank not in odd and one.env}
        if len(here) == len(there) == 1 and here != there and None not in here | there:
            found.append(f"Its {name} is {here.pop()}; that of the others is {there.pop()}.")
    return tuple(found)


def _store_of(inspections: Mapping[int, Inspection], ranks: tuple[int, ...]) -> str:
    """Return a sentence about the address that these ranks have connected to; empty if unknown."""
    found = by_value((rank, _address(inspections[rank])) for rank in ranks if rank in inspections)
    used = max(found, key=lambda address: len(found[address]), default="")
    return f"The store of the others is at {used}." if used else ""


def _address(inspection: Inspection) -> str:
    """Return the address of the socket that the main thread of a rank waits for; empty if unknown."""
    target = inspection.threads[0].target if inspection.threads else ""
    return target[len(_SOCKET) :] if target.startswith(_SOCKET) else ""


def phase_in_words(inspection: Inspection) -> str:
    """Return how far a rank is, as a phrase."""
    phase = phase_of(inspection)
    if phase is Phase.STORE:
        env = dict(inspection.env)
        told = f"{env['MASTER_ADDR']}:{env['MASTER_PORT']}" if {"MASTER_ADDR", "MASTER_PORT"} <= set(env) else ""
        where = f"{told} (MASTER_ADDR, MASTER_PORT)" if told else _address(inspection)
        return f"connecting to the store at {where or 'its MASTER_ADDR and MASTER_PORT'}"
    if phase is Phase.KEYS:
        return "connected to the store, in which addresses of other ranks are missing"
    return "connecting to other ranks"
