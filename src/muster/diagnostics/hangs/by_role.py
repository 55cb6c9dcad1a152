"""Why the ranks of a run with several roles stand still: torch numbers the ranks of each role from 0. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from muster.core.inspection import Snapshot
from muster.core.results import RankExit, RoleRanks
from muster.core.roles import exits_in, snapshot_in
from muster.core.verdict import Verdict, VerdictKind
from muster.diagnostics.hangs import decision

_TELLS_LITTLE = (VerdictKind.PROGRESS, VerdictKind.NO_WAIT, VerdictKind.UNKNOWN)


def verdict(
    snapshot: Snapshot,
    exits: Sequence[RankExit] = (),
    world_size: int = 0,
    began: float | None = None,
    earlier: Snapshot | None = None,
    roles: Sequence[RoleRanks] = (),
) -> Verdict:
    """Return why the ranks stand still, or that they do not; see `decision.verdict`.

    With `roles`, the ranks of each role are compared with each other only, and the verdict is that on the first role
    that stands still.
    """
    if not roles:
        return decision.verdict(snapshot, exits, world_size, began, earlier)
    found = []
    for role in roles:
        before = snapshot_in(earlier, role) if earlier is not None else None
        own = decision.verdict(snapshot_in(snapshot, role), exits_in(exits, role), role.ranks, began, before)
        found.append(_in_run(own, role))
    first = min(found, key=lambda one: (one.kind in _TELLS_LITTLE, one.kind is not VerdictKind.PROGRESS, not one.odd))
    situations = tuple(situation for one in found for situation in one.situations)
    return first._replace(situations=situations, notes=tuple(note for one in found for note in one.notes))


def _in_run(found: Verdict, role: RoleRanks) -> Verdict:
    """Return a verdict on the ranks of a role with their numbers in the run."""

    def shifted(ranks: Sequence[int]) -> tuple[int, ...]:
        return tuple(role.first + rank for rank in ranks)

    return found._replace(
        odd=shifted(found.odd),
        waiting=shifted(found.waiting),
        situations=tuple(one._replace(ranks=shifted(one.ranks)) for one in found.situations),
        notes=tuple(f"{role.name}: {note}" for note in found.notes),
    )
