"""The ranks that others waited for when the first one failed: from a snapshot to what the report says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from muster.core.inspection import Snapshot
from muster.core.layout import named
from muster.core.results import RankExit, RoleRanks
from muster.core.root_cause import Missed
from muster.core.verdict import VerdictKind
from muster.diagnostics.hangs import verdict
from muster.ui.hang_text import place, verdict_in_words

_BLAMING = (
    VerdictKind.MISSING,
    VerdictKind.NOT_JOINED,
    VerdictKind.NOT_CONNECTED,
    VerdictKind.MISMATCH,
    VerdictKind.UNEVEN,
    VerdictKind.EXTRA_CALL,
)
"""Verdicts whose odd ranks have made the others fail."""


def missed_ranks(
    snapshot: Snapshot,
    exits: Sequence[RankExit],
    world_size: int,
    hosts: Mapping[int, str],
    roles: Sequence[RoleRanks] = (),
) -> Missed | None:
    """Return the ranks that the others waited for; None if that is not known. `hosts`: the host of each rank."""
    found = verdict(snapshot, exits, world_size, roles=roles)
    if found.kind not in _BLAMING or not found.odd or len(found.odd) >= world_size:
        return None
    user = next((one.user for one in found.situations_of(found.odd[:1]) if one.user is not None), None)
    where = f"{place(user)} in {user.function}" if user is not None else ""
    words = verdict_in_words(found, hosts)
    if not words.startswith("rank"):  # what the odd ranks called is not known: they are gone
        words = f"{named(found.odd)} called another collective than the others"
    return Missed(found.odd, words, where)
