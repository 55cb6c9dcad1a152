"""The decision who keeps the others waiting. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from muster.core.fold import by_value
from muster.core.inspection import Inspection, Snapshot
from muster.core.results import RankExit
from muster.core.verdict import Activity, Collective, Situation, Verdict, VerdictKind
from muster.diagnostics.hangs import connecting
from muster.diagnostics.hangs.mismatch import mismatched
from muster.diagnostics.hangs.standing import INIT, Standing, has_complained, standings_of
from muster.diagnostics.hangs.steps import steps_in_words

_SHORT = 2.0
"""Seconds for which ranks may wait for each other in any program."""
_TIMES = 3.0
"""How many times longer than usual a wait must be."""


def verdict(
    snapshot: Snapshot,
    exits: Sequence[RankExit] = (),
    world_size: int = 0,
    began: float | None = None,
    earlier: Snapshot | None = None,
) -> Verdict:
    """Return why the ranks stand still, or that they do not.

    `exits`: those of the snapshot's attempt. `began`: when the run started, in seconds since 1970 by the clock of
    node 0; without it no time is told. `earlier`: another snapshot of the same attempt, to see progress.
    """
    size = world_size or 1 + max(
        (*(found.rank for found in snapshot.inspections), *(end.rank for end in exits)), default=-1
    )
    world = _World(standings_of(snapshot, exits, size), snapshot, began + snapshot.when if began is not None else None)
    found = _decided(world, earlier)
    notes = (*found.notes, *steps_in_words(snapshot))
    return found._replace(situations=_situations(world, found), silent=snapshot.silent, notes=notes)


class _World(NamedTuple):
    """All ranks at one moment."""

    standings: Mapping[int, Standing]
    snapshot: Snapshot
    now: float | None

    @property
    def nodes(self) -> Mapping[int, int]:
        """The node of each rank that has an inspection."""
        return {found.rank: found.node for found in self.snapshot.inspections}

    def members(self, call: Collective) -> tuple[int, ...]:
        """Return the ranks that have to enter a collective."""
        if not call.group:
            return tuple(self.standings)
        told = {rank for one in self.standings.values() for rank in one.members.get(call.group, ())}
        if told:
            return tuple(sorted(told & set(self.standings)))
        known = tuple(rank for rank, one in self.standings.items() if call.group in one.entered)
        # after the first call of a group all of its ranks have a record; before, it may have any rank
        return known if call.seq > 1 else tuple(self.standings)

    def knows_members(self, call: Collective) -> bool:
        """Return whether it is certain which ranks a group has."""
        return not call.group or any(call.group in one.members for one in self.standings.values())

    def absent(self, rank: int, call: Collective) -> set[int]:
        """Return the ranks that this rank waits for in a call."""
        return {other for other in self.members(call) if other != rank and not self.standings[other].has_entered(call)}

    def awaited(self, rank: int) -> set[int]:
        """Return the ranks that a rank waits for."""
        one = self.standings[rank]
        found = set().union(*(self.absent(rank, wait.collective) for wait in one.waits))
        if one.situation.holder:
            pids = {other.situation.pid: number for number, other in self.standings.items() if other.situation.pid}
            found |= {pids[one.situation.holder]} - {rank} if one.situation.holder in pids else set()
        return found

    def waited(self, ranks: Collection[int], call: Collective | None) -> float | None:
        """Return for how long the one of these ranks that came first has been in a call; None if unknown."""
        if self.now is None:
            return None
        waits = [wait for rank in ranks for wait in self.standings[rank].waits if call in (None, wait.collective)]
        since = [wait.since for wait in waits if wait.since]
        return max(0.0, self.now - min(since)) if since else None

    def usual(self) -> float:
        """Return how long ranks have usually computed between two collectives, in seconds."""
        gaps: list[float] = []
        for inspection in self.snapshot.inspections:
            times = [record.created for record in inspection.collectives[-200:] if record.created]
            gaps += (after - before for before, after in zip(times, times[1:]))
        return sorted(gaps)[int(len(gaps) * 0.95)] if gaps else 0.0

    def is_short(self, seconds: float | None) -> bool:
        """Return whether ranks have waited no longer than they do in a run that makes progress."""
        return seconds is not None and seconds < max(_SHORT, _TIMES * self.usual())


def _decided(world: _World, earlier: Snapshot | None) -> Verdict:
    alive = [rank for rank, one in world.standings.items() if one.exit is None]
    if not alive:
        return Verdict(VerdictKind.UNKNOWN, notes=("No rank is running.",))
    if earlier is not None and _advanced(earlier, world.snapshot):
        waiting = _waiting(world)
        call = _common(world, waiting)
        return Verdict(VerdictKind.PROGRESS, (), waiting, call, world.waited(waiting, call))
    different = mismatched(world.standings, world.members)
    if different is not None:
        return different._replace(seconds=world.waited(different.waiting + different.odd, None))
    waiting = _waiting(world)
    if not waiting:
        return _nobody_waits(world, alive)
    ends = _ends(world, waiting)
    if not ends:
        return _circle(world, waiting)
    outside = {rank for rank in ends if not world.standings[rank].waiting}
    joining = tuple(rank for rank in waiting if _is_joining(world.standings[rank]))
    if not outside or (joining and connecting.have_all_joined(world.snapshot, joining)):
        return _complete(world, joining or tuple(sorted(ends)))
    return _absent(world, waiting, outside)


def _is_joining(one: Standing) -> bool:
    return one.waits[0].collective.op == INIT


def _waiting(world: _World) -> tuple[int, ...]:
    return tuple(rank for rank, one in world.standings.items() if one.waiting)


def _ends(world: _World, waiting: Sequence[int]) -> set[int]:
    """Follow the ranks that wait to those that they wait for; return those that wait for nobody."""
    seen, ends, to_see = set(waiting), set(), list(waiting)
    while to_see:
        rank = to_see.pop()
        awaited = world.awaited(rank)
        if not awaited:
            ends.add(rank)
        to_see += awaited - seen
        seen |= awaited
    return ends


# ---- ranks that have not come ---------------------------------------------------------------------------------------


def _absent(world: _World, waiting: tuple[int, ...], outside: set[int]) -> Verdict:
    """Return the verdict if ranks wait for those `outside`."""
    in_it = [rank for rank in waiting if world.awaited(rank) & outside]
    call = _common(world, in_it)
    seconds = world.waited(in_it, call)
    standings = world.standings
    complaints = {rank for rank in outside if has_complained(standings[rank].exit)}
    gone = {rank for rank in outside if standings[rank].exit is not None} - complaints
    alive = {rank for rank in outside if standings[rank].exit is None and standings[rank].known}
    stopped = {rank for rank in alive if standings[rank].situation.activity is Activity.STOPPED}
    mute = outside - complaints - gone - alive
    if world.is_short(seconds) and not gone | stopped:
        return Verdict(VerdictKind.PROGRESS, waiting=waiting, collective=call, seconds=seconds)
    if world.is_short(seconds):
        alive = stopped
    found = Verdict(VerdictKind.UNKNOWN, (), tuple(waiting), call, seconds)
    if alive:
        kind = VerdictKind.NOT_JOINED if call is not None and call.op == INIT else VerdictKind.MISSING
        return found._replace(kind=kind, odd=tuple(sorted(alive | gone)))
    if gone:
        succeeded = all(one.ok for one in (standings[rank].exit for rank in gone) if one is not None)
        if succeeded and len(gone) > len(in_it) and not mute and call is not None and call.op != INIT:
            return found._replace(kind=VerdictKind.EXTRA_CALL, odd=tuple(in_it), waiting=())
        return found._replace(kind=VerdictKind.EXITED, odd=tuple(sorted(gone)))
    if mute and all(rank not in world.nodes or world.nodes[rank] in world.snapshot.silent for rank in mute):
        return found._replace(kind=VerdictKind.SILENT, odd=tuple(sorted(mute)))
    return found


def _common(world: _World, ranks: Sequence[int]) -> Collective | None:
    """Return the call that most of these ranks wait in."""
    calls = by_value((rank, wait.collective) for rank in ranks for wait in world.standings[rank].waits[:1])
    return max(calls, key=lambda call: len(calls[call]), default=None)


# ---- other verdicts -------------------------------------------------------------------------------------------------


def _circle(world: _World, waiting: tuple[int, ...]) -> Verdict:
    """Return the verdict if ranks wait for each other: most of them in one call, or in as many as there are ranks."""
    in_circle = sorted(set(waiting) | {other for rank in waiting for other in world.awaited(rank)})
    calls = by_value((rank, _what(world.standings[rank])) for rank in in_circle)
    most = max(calls.values(), key=len)
    odd = tuple(rank for rank in in_circle if rank not in most) if 2 * len(most) > len(in_circle) else ()
    common = _common(world, most if odd else waiting)
    seconds = world.waited(most if odd else in_circle, common if odd else None)
    if world.is_short(seconds):
        return Verdict(VerdictKind.PROGRESS, waiting=waiting, collective=common, seconds=seconds)
    groups = {wait.collective.group for rank in in_circle for wait in world.standings[rank].waits}
    locked = any(world.standings[rank].situation.activity is Activity.FILE_LOCK for rank in in_circle)
    kind = VerdictKind.CYCLE if len(groups) > 1 or locked else VerdictKind.MISMATCH
    rest = tuple(rank for rank in in_circle if rank not in odd)
    return Verdict(kind, odd, rest, common if odd else None, seconds, notes=_holders(world, in_circle))


def _holders(world: _World, ranks: Sequence[int]) -> tuple[str, ...]:
    """Return a sentence for each rank that holds a file lock that others wait for."""
    held = {world.standings[rank].situation.holder for rank in ranks} - {0}
    pids = {one.situation.pid: rank for rank, one in world.standings.items()}
    return tuple(f"Process {pid} is rank {pids[pid]}." for pid in sorted(held & set(pids)))


def _what(one: Standing) -> tuple[object, ...]:
    """Return what ranks have in common that wait in the same call."""
    return tuple((wait.collective.op, wait.collective.group, wait.collective.seq) for wait in one.waits[:1])


def _complete(world: _World, ranks: tuple[int, ...]) -> Verdict:
    """Return the verdict if all ranks have entered the same call."""
    call = _common(world, ranks)
    seconds = world.waited(ranks, call)
    if call is not None and call.op == INIT:
        others = tuple(rank for rank in world.standings if rank not in ranks)
        return connecting.verdict(world.snapshot, ranks, others, call)
    if world.is_short(seconds):
        return Verdict(VerdictKind.PROGRESS, waiting=ranks, collective=call, seconds=seconds)
    certain = call is None or world.knows_members(call)
    return Verdict(VerdictKind.COMPLETE if certain else VerdictKind.UNKNOWN, (), ranks, call, seconds)


def _nobody_waits(world: _World, alive: Sequence[int]) -> Verdict:
    """Return the verdict if no rank is seen waiting for another."""
    standings = world.standings
    stopped = tuple(rank for rank in alive if standings[rank].situation.activity is Activity.STOPPED)
    if stopped:
        return Verdict(VerdictKind.MISSING, stopped)
    known = [rank for rank in alive if standings[rank].situation.activity is not Activity.NO_ANSWER]
    if not known:
        return Verdict(VerdictKind.UNKNOWN)
    complained = tuple(rank for rank, one in standings.items() if has_complained(one.exit))
    left = tuple(rank for rank, one in standings.items() if one.exit is not None and rank not in complained)
    told = tuple(rank for rank in known if standings[rank].known)
    if complained and (left or told):
        return Verdict(VerdictKind.EXITED if left else VerdictKind.MISSING, left or told, complained)
    alike = {(standings[rank].situation.activity, standings[rank].situation.user) for rank in known}
    blocked = standings[known[0]].situation
    on_network = blocked.activity is Activity.SYSTEM_CALL and blocked.target.startswith("socket")
    if left and len(alike) == 1 and on_network:
        return Verdict(VerdictKind.EXITED, left, tuple(known))
    if world.now is not None and _called_lately(world):
        return Verdict(VerdictKind.PROGRESS)
    return Verdict(VerdictKind.NO_WAIT)


def _called_lately(world: _World) -> bool:
    """Return whether ranks call collectives now."""
    last = max((record.created for one in world.snapshot.inspections for record in one.collectives), default=0.0)
    return bool(last) and world.now is not None and world.is_short(world.now - last)


def _advanced(earlier: Snapshot, later: Snapshot) -> bool:
    """Return whether all ranks have called collectives, or finished steps, between two snapshots."""
    before = {found.rank: found for found in earlier.inspections}
    after = [found for found in later.inspections if found.recorder or found.step is not None]
    return bool(after) and all(found.rank in before and _went_on(before[found.rank], found) for found in after)


def _went_on(before: Inspection, now: Inspection) -> bool:
    """Return whether a rank has called a collective, or finished a step, between two moments."""
    calls = [sum(state.enqueued for state in found.groups) for found in (before, now)]
    return (now.recorder and calls[1] > calls[0]) or (now.step or 0) > (before.step or 0)


# ---- the evidence ---------------------------------------------------------------------------------------------------


def _situations(world: _World, verdict: Verdict) -> tuple[Situation, ...]:
    """Return what each rank does, equal situations together, those of the odd ranks first."""
    odd, call = verdict.odd, verdict.collective
    alone = Situation((), Activity.UNKNOWN)
    pairs = []
    for rank, one in world.standings.items():
        found = one.situation
        if found.collective is not None:
            found = found._replace(uses_cpu=False)
        elif verdict.kind is VerdictKind.MISMATCH and call is not None:
            found = found._replace(collective=one.calls.get((call.group, call.seq)))  # it is out of it already
        pairs.append((rank, (rank in odd, found._replace(ranks=alone.ranks, seconds=None, pid=0))))
    groups = [(not is_odd, ranks, found) for (is_odd, found), ranks in by_value(pairs).items()]
    made = []
    for _, ranks, found in sorted(groups, key=lambda group: (group[0], group[1])):
        seconds = world.waited(ranks, found.collective) if found.collective is not None else None
        if found.activity is Activity.EXITED:
            seconds = max(world.standings[rank].situation.seconds or 0.0 for rank in ranks)
        pid = world.standings[ranks[0]].situation.pid
        made.append(found._replace(ranks=tuple(ranks), seconds=seconds, pid=pid))
    return tuple(made)
