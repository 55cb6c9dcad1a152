"""Old runs and their end. What lives, or of which that is not known, is never touched."""

from __future__ import annotations

from collections.abc import Sequence

from muster import runs
from muster.errors import Impossible
from muster.runs import Run
from muster.world import contact

_LIVING = ("running", "pending", "unknown")
"""States of runs whose files are still wanted."""


def ended(found: Sequence[Run], within: float) -> list[Run]:
    """Those of these runs that have ended. All are asked at the same time, for `within` seconds."""
    states = zip(found, contact.states(found, within))
    return [run for run, state in states if state not in (*_LIVING, contact.UNREADABLE)]


def refuse_living(found: Sequence[Run], within: float) -> None:
    """Raise `Impossible`, or `Unreachable`, for the first of these runs that may live.

    A damaged one has ended when nobody answers for it on this machine.
    """
    for run, state in zip(found, contact.states(found, within)):
        if state == contact.UNREADABLE and contact.answers(run):
            state = "running"
        contact.require_known(run, state)
        if state in _LIVING:
            raise Impossible(f"{run.id} is {state}; it is not deleted", f"end it by `muster kill {run.operand}`")


def delete(run: Run) -> None:
    """Delete a run, with what is remembered of it."""
    contact.forget_way(run)
    runs.remove(run)
