"""The wording of a verdict: why the ranks of a run stand still."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from muster.core.hostlist import fold_hostlist
from muster.core.layout import fold
from muster.core.printable import line as safe
from muster.core.verdict import Activity, Collective, Frame, Situation, Verdict, VerdictKind
from muster.ui.death_text import signal_name
from muster.ui.formatting import seconds as duration

Hosts = Mapping[int, str]
"""The host of each rank; empty if all are on one."""

_LONGEST = 160
"""Characters of a path or an address."""


def verdict_in_words(verdict: Verdict, hosts: Hosts = {}) -> str:  # noqa: B006
    """Return a verdict in one to three sentences, on one line."""
    return " ".join([_SENTENCES[verdict.kind](verdict, hosts), *_about_odd(verdict), *map(safe, verdict.notes)])


def evidence_in_words(verdict: Verdict, hosts: Hosts = {}) -> list[str]:  # noqa: B006
    """Return what each rank does, a line for equal ones."""
    rows = [(who(found.ranks, hosts), situation_in_words(found)) for found in verdict.situations]
    width = min(28, max((len(name) for name, _ in rows), default=0))
    return [f"  {name.ljust(width)}  {words}" for name, words in rows]


# ---- ranks, frames, calls -------------------------------------------------------------------------------------------


def who(ranks: Iterable[int], hosts: Hosts = {}) -> str:  # noqa: B006
    """Return ranks with their hosts: `rank 5 on n3`, `ranks 0-4,6-7 on n[1-4]`."""
    ranks = sorted(ranks)
    names = list(dict.fromkeys(hosts[rank] for rank in ranks if rank in hosts))
    several = len(set(hosts.values())) > 1
    where = f" on {safe(fold_hostlist(names))}" if several and names and len(names) <= 16 else ""
    return f"rank{'s' if len(ranks) != 1 else ''} {fold(ranks)}{where}"


def _has(ranks: Sequence[int]) -> str:
    return "has" if len(ranks) == 1 else "have"


def _is(ranks: Sequence[int]) -> str:
    return "is" if len(ranks) == 1 else "are"


def _it(ranks: Sequence[int]) -> str:
    return "it" if len(ranks) == 1 else "them"


def place(frame: Frame) -> str:
    """Return a line of code as `train.py:88`."""
    parts = frame.file.rstrip("/").split("/")
    name = "/".join(parts[-2:]) if parts[-1] == "__init__.py" else parts[-1]
    return f"{safe(name)}:{frame.line}"


def call_in_words(call: Collective, frame: Frame | None = None, tensors: bool = True, function: bool = False) -> str:
    """Return a call as `all_reduce #1240 (float32 [1024], train.py:88)`; `function`: with `in main`."""
    number = f" #{call.seq}" if call.seq else ""
    group = f" of process group {safe(call.group)}" if call.group else ""
    where = (place(frame) + (f" in {safe(frame.function)}" if function else "")) if frame else ""
    more = [text for text in (tensors_in_words(call) if tensors else "", where) if text]
    return f"{safe(call.op)}{number}{group}" + (f" ({', '.join(more)})" if more else "")


def tensors_in_words(call: Collective) -> str:
    """Return type and shapes of the tensors of a call: `float32 [1024], [10]`."""
    shapes = ", ".join(f"[{', '.join(map(str, size))}]" for size in call.sizes[:2])
    if len(call.sizes) > 2:
        shapes += f" and {len(call.sizes) - 2} more"
    return " ".join(filter(None, (" ".join(dict.fromkeys(map(safe, call.dtypes))), shapes)))


# ---- what a rank does -----------------------------------------------------------------------------------------------


def situation_in_words(found: Situation) -> str:
    """Return what ranks are doing, as the end of a sentence after `is` or of a line."""
    where = f"in {safe(found.user.function)} ({place(found.user)})" if found.user else ""
    if found.activity is Activity.EXITED:
        return _exit(found)
    if found.collective is not None and found.activity in _IN_CALLS:
        call = f"waiting in {call_in_words(found.collective)}"
        since = f" for {duration(found.seconds)}" if found.seconds is not None else ""
        return ", ".join(filter(None, (f"{call}{since}", where, *map(safe, found.details))))
    doing = _DOING[found.activity](found)
    inner = ""
    if found.inner is not None and found.activity in (Activity.COMPUTING, Activity.SYSTEM_CALL, Activity.UNKNOWN):
        inner = f"in {safe(found.inner.function)} of {place(found.inner)}"
    if not where and found.inner is not None:
        where = f"in {safe(found.inner.function)} ({place(found.inner)})"
        inner = ""
    return ", ".join(filter(None, (where, doing, inner, *map(safe, found.details))))


def doing_in_words(found: Situation) -> str:
    """Return what ranks are doing, without the line of code; empty if that is not known."""
    if found.activity is Activity.EXITED:
        return _exit(found)
    if found.collective is not None and found.activity in _IN_CALLS:
        since = f" for {duration(found.seconds)}" if found.seconds is not None else ""
        return f"waiting in {call_in_words(found.collective, tensors=False)}{since}"
    return ", ".join(filter(None, (_DOING[found.activity](found), *map(safe, found.details))))


_IN_CALLS = (Activity.COLLECTIVE, Activity.JOINING, Activity.STORE)


def _exit(found: Situation) -> str:
    how = f"killed by {signal_name(found.signal)}" if found.signal is not None else f"exited with status {found.code}"
    # what was recorded as the rank ended tells no age
    return how + (f" {duration(found.seconds)} ago" if found.seconds is not None and found.seconds >= 1 else "")


def _blocked(found: Situation) -> str:
    if not found.call:
        return f"blocked on {_target(found.target)}" if found.target else ""
    return f"blocked in {safe(found.call)}()" + (f" of {_target(found.target)}" if found.target else "")


def _target(target: str) -> str:
    shown = _short(target)
    return f"a {shown}" if shown.split(" ")[0] in ("pipe", "socket", "FIFO") else shown


def _short(text: str) -> str:
    shown = safe(text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"


def _lock(found: Situation) -> str:
    if found.held_by is not None:
        return f"waiting for a lock while another of its threads is in {_frame(found.held_by)}"
    return "waiting for a lock, or in native code (futex)"


def _file_lock(found: Situation) -> str:
    held = f", held by process {found.holder}" if found.holder else ""
    return f"waiting for the lock of {_target(found.target) if found.target else 'a file'}{held}"


def _computing(found: Situation) -> str:
    return "computing (it uses the CPU)"


def _frame(frame: Frame) -> str:
    return f"{safe(frame.function)} ({place(frame)})"


def _with(text: str) -> Callable[[Situation], str]:
    return lambda found: text


def _on_target(text: str) -> Callable[[Situation], str]:
    return lambda found: f"{text}{f' ({_short(found.target)})' if found.target else ''}"


_DOING: Mapping[Activity, Callable[[Situation], str]] = {
    Activity.COLLECTIVE: _with("waiting for other ranks"),
    Activity.JOINING: _with("joining the process group"),
    Activity.STORE: _with("waiting for the store"),
    Activity.COMPUTING: _computing,
    Activity.PYTHON: _computing,
    Activity.SLEEPING: _with("sleeping"),
    Activity.EXITING: _with("exiting"),
    Activity.LOCK: _lock,
    Activity.FILE_LOCK: _file_lock,
    Activity.QUEUE: _with("waiting on a queue"),
    Activity.LOADER: _with("waiting for a batch of its DataLoader"),
    Activity.THREAD: _with("waiting for another of its threads"),
    Activity.SUBPROCESS: _on_target("waiting for another process"),
    Activity.SYSTEM_CALL: _blocked,
    Activity.IMPORTING: _blocked,
    Activity.DEBUGGER: _with("in the debugger"),
    Activity.STOPPED: _with("stopped by a signal (SIGSTOP)"),
    Activity.KERNEL: lambda found: ", ".join(filter(None, ("blocked in the kernel (state D)", _blocked(found)))),
    Activity.NO_ANSWER: _with("no answer"),
    Activity.UNKNOWN: _blocked,
}


def _about_odd(verdict: Verdict) -> list[str]:
    """Return a sentence for each place where odd ranks are, three at most."""
    if verdict.kind in _TOLD_ALREADY:
        return []
    found = [
        one for one in verdict.situations_of(verdict.odd) if one.activity not in (Activity.EXITED, Activity.NO_ANSWER)
    ]
    told = []
    for one in found[:3]:
        words = situation_in_words(one)
        if words:
            name = who(one.ranks)
            told.append(f"{name[0].upper()}{name[1:]} {_is(one.ranks)} {words}.")
    if len(found) > 3:
        told.append("The other ranks are elsewhere.")
    return told


_TOLD_ALREADY = (
    *(VerdictKind.MISMATCH, VerdictKind.UNEVEN, VerdictKind.EXTRA_CALL, VerdictKind.CYCLE, VerdictKind.EXITED),
    *(VerdictKind.PROGRESS, VerdictKind.COMPLETE, VerdictKind.NO_WAIT, VerdictKind.UNKNOWN, VerdictKind.NOT_CONNECTED),
)


# ---- the first sentence ---------------------------------------------------------------------------------------------


def _call(verdict: Verdict) -> str:
    """Return the call that ranks wait in, with the line of those that wait."""
    if verdict.collective is None:
        return ""
    frames = [one.user for one in verdict.situations_of(verdict.waiting) if one.collective == verdict.collective]
    return call_in_words(verdict.collective, frames[0] if frames else None)


def _for(verdict: Verdict) -> str:
    return f" for {duration(verdict.seconds)}" if verdict.seconds is not None else ""


def _missing(verdict: Verdict, hosts: Hosts) -> str:
    odd, waiting, call = verdict.odd, verdict.waiting, _call(verdict)
    if call:
        entered = f"{who(odd, hosts)} {_has(odd)} not entered {call}"
        if verdict.seconds is None:
            return f"{entered}; {who(waiting, hosts)} {'waits' if len(waiting) == 1 else 'wait'} there."
        return f"{entered}; {who(waiting, hosts)} {_has(waiting)} waited there{_for(verdict)}."
    if waiting:
        return f"{who(odd, hosts)} did not come; {who(waiting, hosts)} failed while waiting for other ranks."
    return f"{who(odd, hosts)} {_is(odd)} stopped."


def _not_joined(verdict: Verdict, hosts: Hosts) -> str:
    odd, waiting = verdict.odd, verdict.waiting
    return (
        f"{who(odd, hosts)} {_has(odd)} not called {_call(verdict)}; "
        f"{who(waiting, hosts)} {'waits' if len(waiting) == 1 else 'wait'} there."
    )


def _exited(verdict: Verdict, hosts: Hosts) -> str:
    odd, waiting = verdict.odd, verdict.waiting
    how = "; ".join(f"{who(one.ranks, hosts)} {_ended(one)}" for one in verdict.situations_of(odd))
    call = f" in {_call(verdict)}" if verdict.collective else ""
    return f"{how}; {who(waiting, hosts)} {'waits' if len(waiting) == 1 else 'wait'} for {_it(odd)}{call}."


def _ended(one: Situation) -> str:
    if one.activity is not Activity.EXITED:
        return f"{_has(one.ranks)} not come"
    return f"was {_exit(one)}" if one.signal is not None and len(one.ranks) == 1 else _exit(one)


def _sides(verdict: Verdict, hosts: Hosts, ranks: Sequence[int], verb: bool = True) -> str:
    """Return which of these ranks are in which call: `ranks 0-2 are in barrier #8 (train.py:20 in save)`.

    Those that are out of it already have called it.
    """
    told = []
    for one in verdict.situations_of(tuple(ranks)):
        if one.collective is not None:
            is_there = one.activity in _IN_CALLS
            where = (f"{_is(one.ranks)} in" if is_there else "called") if verb else "in"
            call = call_in_words(one.collective, one.user if is_there else None, function=True)
            told.append(f"{who(one.ranks, hosts)} {where} {call}")
    return " and ".join([", ".join(told[:-1]), told[-1]] if len(told) > 1 else told)


def _mismatch(verdict: Verdict, hosts: Hosts) -> str:
    if not verdict.odd:
        return f"ranks call different collectives: {_sides(verdict, hosts, verdict.waiting)}."
    # the call of a rank that has exited since then is not known
    theirs = _sides(verdict, hosts, verdict.odd) or f"{who(verdict.odd, hosts)} called another collective"
    return f"{theirs}, but {_sides(verdict, hosts, verdict.waiting)}.{_difference(verdict)}"


def _difference(verdict: Verdict) -> str:
    """Return in what the tensors of equal operations differ, as a sentence; empty if they do not."""
    calls = [one.collective for one in verdict.situations_of(verdict.odd) if one.collective is not None]
    if not calls or verdict.collective is None or calls[0].op != verdict.collective.op:
        return ""
    if calls[0].dtypes != verdict.collective.dtypes:
        return " The tensors differ in dtype."
    return " The tensors differ in shape." if calls[0].sizes != verdict.collective.sizes else ""


def _uneven(verdict: Verdict, hosts: Hosts) -> str:
    odd = verdict.odd
    why = f"{'It has' if len(odd) == 1 else 'They have'} fewer batches, or left the loop by `break` or an exception."
    left = f"{_sides(verdict, hosts, odd)}, after the loop in which the others still are"
    return f"{left}: {_sides(verdict, hosts, verdict.waiting)}. {why}"


def _extra(verdict: Verdict, hosts: Hosts) -> str:
    odd, others = verdict.odd, verdict.waiting
    here = _sides(verdict, hosts, odd)
    if others:
        return f"{here}, one call too many: {_sides(verdict, hosts, others)}."
    gone = [one for one in verdict.situations if one.activity is Activity.EXITED]
    return f"{here}, one call too many: {'; '.join(f'{who(one.ranks, hosts)} {_ended(one)}' for one in gone)}."


def _cycle(verdict: Verdict, hosts: Hosts) -> str:
    told = []
    for one in verdict.situations:
        if one.collective is not None:
            told.append(f"{who(one.ranks, hosts)} in {call_in_words(one.collective, one.user)}")
        elif one.activity is Activity.FILE_LOCK:
            told.append(f"{who(one.ranks, hosts)} {_file_lock(one)}")
    return f"ranks wait for each other{_for(verdict)}: {', '.join(told)}."


def _silent(verdict: Verdict, hosts: Hosts) -> str:
    odd, waiting = verdict.odd, verdict.waiting
    wait = "waits" if len(waiting) == 1 else "wait"
    return (
        f"{who(odd, hosts)} {'does' if len(odd) == 1 else 'do'} not answer; "
        f"{who(waiting, hosts)} {wait} for {_it(odd)} in {_call(verdict)}{_for(verdict)}."
    )


def _complete(verdict: Verdict, hosts: Hosts) -> str:
    return (
        f"all ranks have entered {_call(verdict) or 'the same call'}, and it does not complete{_for(verdict)}: "
        "the network may be at fault."
    )


def _progress(verdict: Verdict, hosts: Hosts) -> str:
    if verdict.collective is None or verdict.seconds is None:
        return "the ranks make progress."
    if not verdict.waiting:
        return "the ranks make progress."
    behind = [one for one in verdict.situations if not set(one.ranks) & set(verdict.waiting)]
    told = f"the ranks make progress: {who(verdict.waiting, hosts)} {_has(verdict.waiting)} waited in {_call(verdict)} "
    told += f"for {duration(verdict.seconds)}, no longer than usual."
    for one in behind[:2]:
        name = who(one.ranks, hosts)
        told += f" {name[0].upper()}{name[1:]} {_is(one.ranks)} behind: {situation_in_words(one)}."
    return told


def _no_wait(verdict: Verdict, hosts: Hosts) -> str:
    return "no rank waits for another, as far as can be seen."


def _unknown(verdict: Verdict, hosts: Hosts) -> str:
    if verdict.collective is None or not verdict.waiting:
        return "it cannot be told which rank keeps the others waiting."
    wait = "waits" if len(verdict.waiting) == 1 else "wait"
    return f"the cause is not known: {who(verdict.waiting, hosts)} {wait} in {_call(verdict)}{_for(verdict)}."


def _not_connected(verdict: Verdict, hosts: Hosts) -> str:
    odd, details = verdict.odd, [one.details for one in verdict.situations_of(verdict.odd or verdict.waiting)]
    common = details[0] if len(set(details)) == 1 else ()
    how = f": {', '.join(map(safe, common))}" if common else ""
    if not odd:
        return f"all ranks are in {_call(verdict)}, and it does not complete{how}."
    frames = [one.user for one in verdict.situations_of(odd) if one.user is not None]
    call = call_in_words(Collective("init_process_group"), frames[0] if frames else None)
    rest = f"; {who(verdict.waiting, hosts)} {_has(verdict.waiting)} got further" if verdict.waiting else ""
    return f"{who(odd, hosts)} cannot complete {call}{how}{rest}."


_SENTENCES: Mapping[VerdictKind, Callable[[Verdict, Hosts], str]] = {
    VerdictKind.MISSING: _missing,
    VerdictKind.EXITED: _exited,
    VerdictKind.NOT_JOINED: _not_joined,
    VerdictKind.NOT_CONNECTED: _not_connected,
    VerdictKind.MISMATCH: _mismatch,
    VerdictKind.UNEVEN: _uneven,
    VerdictKind.EXTRA_CALL: _extra,
    VerdictKind.CYCLE: _cycle,
    VerdictKind.SILENT: _silent,
    VerdictKind.COMPLETE: _complete,
    VerdictKind.PROGRESS: _progress,
    VerdictKind.NO_WAIT: _no_wait,
    VerdictKind.UNKNOWN: _unknown,
}
