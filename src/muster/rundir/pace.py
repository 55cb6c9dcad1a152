"""The pace of the ranks in a run directory: what was last seen of the arrival at collectives, `attempt_N/pace.json`."""

from __future__ import annotations

import json
from typing import Any

from muster.core.json_checks import Malformed, checked, number, one_of, optional, several, text, whole
from muster.core.model import as_json
from muster.core.pace import NothingSaid, Pace, Slow
from muster.rundir.run import Run, Unreadable

_SLOW = {"ranks": several(whole), "node": whole, "last": number, "behind": number}

_PACE = {
    "group": text,
    **dict.fromkeys(("collectives", "ranks"), whole),
    **dict.fromkeys(("interval", "lost", "spread"), number),
    "slow": several(lambda data: Slow(**checked(data, _SLOW, tuple(_SLOW)))),
    "nothing": optional(one_of(NothingSaid)),
}


def pace_from_json(data: Any) -> Pace:
    """Parse what `as_json(pace)` returned. Raises `Malformed`."""
    return Pace(**checked(data, _PACE))


def write_pace(run: Run, attempt: int, pace: Pace) -> None:
    """Write the pace of an attempt. Raises OSError."""
    (run.path / f"attempt_{attempt}").mkdir(mode=0o700, exist_ok=True)
    run.replace(_name(attempt), (json.dumps(as_json(pace)) + "\n").encode())


def read_pace(run: Run) -> Pace | None:
    """Return the pace in the last attempt; None if none is recorded. Raises `Unreadable`."""
    for attempt in run.attempts()[-1:]:
        data = run.read(_name(attempt))
        try:
            return None if data is None else pace_from_json(data)
        except Malformed as error:
            raise Unreadable(run, _name(attempt), str(error)) from None
    return None


def _name(attempt: int) -> str:
    return f"attempt_{attempt}/pace.json"
