"""Parsing of the JSON records of inspections: what ranks were doing, and when they called their collectives."""

from __future__ import annotations

from typing import Any

from muster.core.inspection import (
    CollectiveRecord,
    CollectiveTimes,
    GroupState,
    Inspection,
    Snapshot,
    SnapshotReason,
    ThreadState,
)
from muster.core.json_checks import Malformed, flag, number, one_of, optional, pair, record, several, text, texts, whole

_COLLECTIVE = {
    **dict.fromkeys(("group", "op"), text),
    "seq": whole,
    "sizes": several(several(whole)),
    "dtypes": texts,
    "created": number,
    **dict.fromkeys(("done", "p2p"), flag),
}

_GROUP = {
    **dict.fromkeys(("group", "description"), text),
    **dict.fromkeys(("enqueued", "completed"), whole),
    "ranks": several(whole),
}

_THREAD = {
    **dict.fromkeys(("pid", "holder"), whole),
    **dict.fromkeys(("name", "state", "call", "target"), text),
    "cpu": number,
}

_THREADS = several(lambda data: record(ThreadState, _THREAD, data, ("pid",)))

_INSPECTION = {
    **dict.fromkeys(("rank", "node", "pid"), whole),
    "stacks": text,
    **dict.fromkeys(("recorder", "exiting"), flag),
    "collectives": several(lambda data: record(CollectiveRecord, _COLLECTIVE, data, ("group", "seq", "op"))),
    "groups": several(lambda data: record(GroupState, _GROUP, data, ("group",))),
    "waits": texts,
    **dict.fromkeys(("threads", "children"), _THREADS),
    "env": several(pair),
    **dict.fromkeys(("step", "steps"), optional(whole)),
}

_SNAPSHOT = {
    "when": number,
    "reason": one_of(SnapshotReason),
    "attempt": whole,
    "inspections": several(lambda data: inspection_from_json(data)),
    "silent": several(whole),
    "clock_offsets": several(number),
}

_TIMES = {"rank": whole, "group": text, "seqs": several(whole), "created": several(number)}


def inspection_from_json(data: Any) -> Inspection:
    """Parse what one rank was doing, from a file or an agent. Raises `Malformed`."""
    found: Inspection = record(Inspection, _INSPECTION, data, ("rank", "node"))
    return found


def snapshot_from_json(data: Any) -> Snapshot:
    """Parse what `as_json(snapshot)` returned, ignoring unknown keys of newer versions. Raises `Malformed`."""
    found: Snapshot = record(Snapshot, _SNAPSHOT, data, ("when", "reason", "attempt"))
    return found


def collective_times_from_json(data: Any) -> CollectiveTimes:
    """Parse when a rank called its last collectives. Raises `Malformed`."""
    found: CollectiveTimes = record(CollectiveTimes, _TIMES, data, ("rank", "group"))
    if len(found.seqs) != len(found.created):
        raise Malformed("`created` has another length than `seqs`")
    return found
