"""Snapshots in a run directory: what the ranks of an attempt did at a few moments.

`attempt_N/snapshot_K.json`: the first ones of an attempt, and the last one, so that their number is bounded.
"""

from __future__ import annotations

import re

from muster.core.inspection import Snapshot
from muster.core.json_checks import Malformed
from muster.core.json_inspection import snapshot_from_json
from muster.core.model import as_json
from muster.rundir.run import Run, Unreadable

MOST = 6
"""How many snapshots of an attempt are kept; the last one is replaced by later ones."""

_NAME = re.compile(r"snapshot_([0-9]{1,4})\.json")


def snapshot_numbers(run: Run, attempt: int) -> list[int]:
    """Return the numbers of the snapshots of an attempt, in order."""
    names = (path.name for path in (run.path / f"attempt_{attempt}").glob("snapshot_*.json"))
    return sorted(int(found[1]) for name in names if (found := _NAME.fullmatch(name)))


def write_snapshot(run: Run, snapshot: Snapshot) -> str:
    """Write a snapshot of an attempt, and return the name of its file in the run directory. Raises OSError."""
    (run.path / f"attempt_{snapshot.attempt}").mkdir(mode=0o700, exist_ok=True)
    known = snapshot_numbers(run, snapshot.attempt)
    name = _name(snapshot.attempt, min(known[-1] + 1 if known else 0, MOST - 1))
    run.replace(name, (as_text(snapshot) + "\n").encode())
    return name


def as_text(snapshot: Snapshot) -> str:
    """Return a snapshot as JSON."""
    import json

    return json.dumps(as_json(snapshot))


def read_snapshot(run: Run, attempt: int, number: int) -> Snapshot | None:
    """Return a snapshot; None if there is none of this number. Raises `Unreadable`."""
    name = _name(attempt, number)
    data = run.read(name)
    try:
        return None if data is None else snapshot_from_json(data)
    except Malformed as error:
        raise Unreadable(run, name, str(error)) from None


def snapshots(run: Run, attempt: int) -> list[Snapshot]:
    """Return the snapshots of an attempt in order. Raises `Unreadable`."""
    found = (read_snapshot(run, attempt, number) for number in snapshot_numbers(run, attempt))
    return [snapshot for snapshot in found if snapshot is not None]


def last_snapshot(run: Run) -> Snapshot | None:
    """Return the last snapshot of the last attempt that has one; None if no attempt has one. Raises `Unreadable`."""
    for attempt in reversed(run.attempts()):
        numbers = snapshot_numbers(run, attempt)
        if numbers:
            return read_snapshot(run, attempt, numbers[-1])
    return None


def _name(attempt: int, number: int) -> str:
    return f"attempt_{attempt}/snapshot_{number}.json"
