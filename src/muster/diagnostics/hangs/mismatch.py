"""Ranks that call different collectives under the same number. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from muster.core.fold import by_value
from muster.core.results import FailureKind
from muster.core.verdict import Collective, Frame, Verdict, VerdictKind
from muster.diagnostics.hangs.standing import Standing, has_complained, is_of_user

_ALIKE_ON_ALL_RANKS = ("all_reduce", "broadcast", "reduce", "all_gather", "_all_gather_base", "reduce_scatter")
"""Operations whose tensors must have the same shape and type on all ranks."""


def mismatched(standings: Mapping[int, Standing], members: Callable[[Collective], Sequence[int]]) -> Verdict | None:
    """Return the verdict if ranks have called different collectives where some of them wait; None if they have not."""
    pending = {wait.collective for one in standings.values() for wait in one.waits if wait.collective.seq}
    numbers = {(call.group, call.seq) for call in pending}
    if any(has_complained(one.exit) for one in standings.values()):
        # those about to fail are out of it already
        numbers |= {(group, seq) for one in standings.values() for group, seq in one.entered.items()}
    alike: list[Verdict] = []
    for group, seq in sorted(numbers):
        calls, ranks = {}, members(Collective("", group, seq))
        for rank in ranks:
            call = standings[rank].calls.get((group, seq))
            if call is not None:
                calls[rank] = call
        sides = list(by_value((rank, _likeness(call)) for rank, call in calls.items()).values())
        gone = [rank for rank in ranks if rank not in calls and _got_too_much(standings[rank])]
        if len(sides) > 1:
            # who received more than it expected has called with less
            small = min(sides, key=lambda side: _size(calls[side[0]]))
            sides = [side + gone if side is small else side for side in sides]
            behind = [rank for rank in ranks if rank not in calls and _is_behind(standings[rank], group, seq)]
            return _verdict(standings, calls, sides, len(ranks), len(behind))
        if len(sides) == 1 and gone and 2 * len(sides[0]) > len(ranks):
            alike.append(Verdict(VerdictKind.MISMATCH, tuple(gone), tuple(sides[0]), calls[sides[0][0]]))
    # what the aborted ranks called last is not known: it may be any number, but only at the last one all others agree
    return alike[-1] if alike else None


_TOO_MUCH = "op.preamble.length <= op.nbytes"
"""gloo's words of a rank that has received more than its tensor can hold."""

_WIDTHS: Mapping[str, int] = {
    **dict.fromkeys(("float64", "int64", "complex64"), 8),
    **dict.fromkeys(("float32", "int32"), 4),
    **dict.fromkeys(("float16", "bfloat16", "int16"), 2),
    "complex128": 16,
}
"""Bytes of an element; others have 1."""


def _got_too_much(one: Standing) -> bool:
    """Return whether a rank failed because a peer sent more than it expected: gloo aborts it."""
    failure = one.exit.failure if one.exit is not None else None
    return failure is not None and failure.kind is FailureKind.MISMATCH and _TOO_MUCH in failure.summary


def _size(call: Collective) -> int:
    """Return the bytes of the tensors of a call."""
    width = _WIDTHS.get(call.dtypes[0], 1) if call.dtypes else 1
    return sum(math.prod(size) for size in call.sizes) * width


def _is_behind(one: Standing, group: str, seq: int) -> bool:
    """Return whether a rank is known to be in an earlier call."""
    return any(wait.collective.group == group and 0 < wait.collective.seq < seq for wait in one.waits)


def _likeness(call: Collective) -> tuple[object, ...]:
    """Return what must be the same on all ranks."""
    return (call.op, call.sizes, call.dtypes) if call.op in _ALIKE_ON_ALL_RANKS else (call.op,)


def _verdict(
    standings: Mapping[int, Standing],
    calls: Mapping[int, Collective],
    sides: list[list[int]],
    members: int,
    behind: int,
) -> Verdict:
    """Return who has called otherwise than most. `behind`: how many of the `members` have not come to this call yet."""
    most = max(sides, key=len)
    # what the others have called may not be known; those who are yet to come might at worst make it even
    if 2 * len(most) <= members - behind or 2 * len(most) < members:
        return Verdict(VerdictKind.MISMATCH, (), tuple(sorted(calls)))
    odd = tuple(rank for rank in sorted(calls) if rank not in most)
    most = [rank for rank in most if rank in calls] + [rank for rank in most if rank not in calls]
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
