"""Ranks that call different collectives under the same number. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from muster.core.fold import by_value
from muster.core.verdict import Collective, Frame, Verdict, VerdictKind
from muster.diagnostics.hangs.standing import Standing, is_of_user

_ALIKE_ON_ALL_RANKS = ("all_reduce", "broadcast", "reduce", "all_gather", "_all_gather_base", "reduce_scatter")
"""Operations whose tensors must have the same shape and type on all ranks."""


def mismatched(standings: Mapping[int, Standing], members: Callable[[Collective], Sequence[int]]) -> Verdict | None:
    """Return the verdict if ranks have called different collectives where some of them wait; None if they have not."""
    pending = {wait.collective for one in standings.values() for wait in one.waits if wait.collective.seq}
    for group, seq in sorted({(call.group, call.seq) for call in pending}):
        calls, ranks = {}, members(Collective("", group, seq))
        for rank in ranks:
            call = standings[rank].calls.get((group, seq))
            if call is not None:
                calls[rank] = call
        sides = by_value((rank, _likeness(call)) for rank, call in calls.items())
        if len(sides) > 1:
            return _verdict(standings, calls, list(sides.values()), len(ranks))
    return None


def _likeness(call: Collective) -> tuple[object, ...]:
    """Return what must be the same on all ranks."""
    return (call.op, call.sizes, call.dtypes) if call.op in _ALIKE_ON_ALL_RANKS else (call.op,)


def _verdict(
    standings: Mapping[int, Standing], calls: Mapping[int, Collective], sides: list[list[int]], members: int
) -> Verdict:
    most = max(sides, key=len)
    if 2 * len(most) <= members:  # what the others have called may not be known
        return Verdict(VerdictKind.MISMATCH, (), tuple(sorted(calls)))
    odd = tuple(rank for rank in sorted(calls) if rank not in most)
    kind = VerdictKind.MISMATCH
    if all(_has_left_loop(standings[rank], standings[most[0]], calls[rank], calls[most[0]]) for rank in odd):
        kind = VerdictKind.UNEVEN
    elif all(_is_one_ahead(standings[most[0]], standings[rank], calls[rank]) for rank in odd):
        kind = VerdictKind.EXTRA_CALL
    return Verdict(kind, odd, tuple(sorted(most)), calls[most[0]])


def _has_left_loop(odd: Standing, other: Standing, call: Collective, others_call: Collective) -> bool:
    """Return whether a rank is further on in the same code, in a call that is new to it, while others repeat theirs."""
    if not (is_of_user(odd.situation.user) and is_of_user(other.situation.user)):
        return False
    earlier = [known for (group, seq), known in odd.calls.items() if group == call.group and seq < call.seq]
    is_new = not any(_likeness(known) == _likeness(call) for known in earlier[-20:])
    is_repeated = any(_likeness(known) == _likeness(others_call) for known in earlier[-20:])
    return is_new and is_repeated and _is_further(odd.path, other.path)


def _is_further(path: Sequence[Frame], other: Sequence[Frame]) -> bool:
    """Return whether a stack, outermost first, is at a later line than another where they part."""
    for here, there in zip(path, other):
        if (here.file, here.function) != (there.file, there.function):
            return False
        if here.line != there.line:
            return here.line > there.line
    return False


def _is_one_ahead(other: Standing, odd: Standing, call: Collective) -> bool:
    """Return whether a rank has made one more call of the kind that came before, and the others go on from there.

    That is so if the call of the others is what the odd rank would call next, which is not known: it waits. So the
    call has to be the same as the one before on all ranks, and different from that of the others.
    """
    before = odd.calls.get((call.group, call.seq - 1))
    same = other.calls.get((call.group, call.seq - 1))
    return before is not None and same is not None and _likeness(before) == _likeness(same) == _likeness(call)
