"""Parsing of what torch's control plane says about a rank: its flight recorder and its wait counters, as JSON.

The recorder keeps the last 2,000 collectives. For gloo the `state` of an entry stays `scheduled`: `retired` says
whether it is done. `pg_status` counts send and recv too, which are no entries, so it differs between ranks that wait in
the same collective; it is used only for groups without an entry. Seen with torch 2.13; missing fields are left empty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from muster.core.inspection import CollectiveRecord, CollectiveTimes, GroupState

KEPT = 50
"""How many collectives an inspection has."""

_RECORD = b'"record_id":'

_PREFIX = "pytorch.wait_counter."

_MALFORMED = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError)


def parse(data: bytes, last: int = KEPT) -> tuple[tuple[CollectiveRecord, ...], tuple[GroupState, ...]] | None:
    """Return the `last` collectives, oldest first, and the process groups; None if this is no such dump."""
    try:
        dump = json.loads(data)
        collectives = tuple(map(_collective, dump.get("entries", ())))
        return collectives[-last:], _groups(dump, collectives)
    except _MALFORMED:
        return None


def progress(data: bytes) -> tuple[int, bool] | None:
    """Return a number that changes with each collective that is called or done, and whether one is pending.

    None if this is no such dump. It is not parsed: a node has many ranks, and each dump up to 1 MB.
    """
    if b'"entries":' not in data:
        return None
    pending = data.count(b'"retired":false')
    called = re.match(rb"\d+", data[data.rfind(_RECORD) + len(_RECORD) :]) if _RECORD in data else None
    return (1 + int(called[0]) if called else 1) * 10000 - pending, pending > 0


def parse_times(data: bytes, rank: int) -> tuple[CollectiveTimes, ...] | None:
    """Return when the rank called each collective that is still known, by group; None if this is no such dump."""
    found: dict[str, list[tuple[int, float]]] = {}
    try:
        for entry in json.loads(data).get("entries", ()):
            if not entry.get("is_p2p"):
                called = int(entry["collective_seq_id"]), entry["time_created_ns"] / 1e9
                found.setdefault(_group_of(entry)[0], []).append(called)
    except _MALFORMED:
        return None
    return tuple(
        CollectiveTimes(rank, group, tuple(seq for seq, _ in calls), tuple(created for _, created in calls))
        for group, calls in found.items()
    )


def parse_waits(data: bytes) -> tuple[str, ...] | None:
    """Return the names of the wait counters that are active; None if this is no answer."""
    try:
        active = (str(name) for name, value in _counters(json.loads(data)) if value.get("active_count"))
        return tuple(sorted(name[len(_PREFIX) :] if name.startswith(_PREFIX) else name for name in active))
    except _MALFORMED:
        return None


def _counters(found: Any) -> Iterable[tuple[Any, Mapping[str, Any]]]:
    return found.items() if isinstance(found, dict) else ()


def _group_of(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Return name and description of the process group of an entry."""
    group = entry.get("process_group", ("", ""))
    return (str(group[0]), str(group[1])) if isinstance(group, list) else (str(group), "")


def _collective(entry: Mapping[str, Any]) -> CollectiveRecord:
    p2p = bool(entry.get("is_p2p"))
    return CollectiveRecord(
        group=_group_of(entry)[0],
        seq=int(entry["p2p_seq_id" if p2p else "collective_seq_id"]),
        op=str(entry.get("profiling_name", "")).partition(":")[2] or str(entry.get("profiling_name", "")),
        sizes=tuple(tuple(map(int, size)) for size in entry.get("input_sizes") or ()),
        dtypes=tuple(map(str, entry.get("input_dtypes") or ())),
        created=round(entry.get("time_created_ns", 0) / 1e9, 6),
        done=bool(entry.get("retired")) or entry.get("state") == "completed",
        p2p=p2p,
    )


def _groups(dump: Mapping[str, Any], collectives: Iterable[CollectiveRecord]) -> tuple[GroupState, ...]:
    status, config = dump.get("pg_status") or {}, dump.get("pg_config") or {}
    called: dict[str, int] = {}
    done: dict[str, int] = {}
    for record in collectives:
        if not record.p2p:
            called[record.group] = record.seq
            done[record.group] = record.seq if record.done else done.get(record.group, record.seq - 1)
    described = dict(map(_group_of, dump.get("entries", ())))
    return tuple(
        GroupState(
            group=name,
            description=str(config.get(name, {}).get("desc", "")) or described.get(name, ""),
            enqueued=called.get(name, _count(status, name, "last_enqueued_collective")),
            completed=done.get(name, _count(status, name, "last_completed_collective")),
            ranks=_ranks(config.get(name, {}).get("ranks", "")),
        )
        for name in sorted({*status, *config, *called})
        if name  # gloo has a configuration without a name
    )


def _count(status: Mapping[str, Any], name: str, key: str) -> int:
    """Return a number of a group's status, which is a text; -1 before its first collective."""
    return max(0, int(status.get(name, {}).get(key, 0)))


def _ranks(told: Any) -> tuple[int, ...]:
    """Return the ranks of a group: a list, or its text."""
    found = json.loads(told) if isinstance(told, str) and told else told
    return tuple(map(int, found or ()))
