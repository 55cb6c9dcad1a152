"""The wording of why runs end, and of what is done about it. No code parses these sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from muster.core.fold import by_value
from muster.core.hostlist import fold_hostlist, fold_values
from muster.core.plurals import plural
from muster.core.printable import line as safe
from muster.core.results import (
    SIGHUP,
    SIGINT,
    SIGKILL,
    SIGQUIT,
    FailureKind,
    Leftover,
    LostNode,
    OnHang,
    Problem,
    ProblemKind,
    RankExit,
    Repeated,
    Replaced,
    RoleRanks,
    StopKind,
    StopReason,
)
from muster.core.roles import rank_in_words
from muster.diagnostics.deaths import DeathCause, death_of, signal_of
from muster.linux.processes import FEWER_PROCESSES
from muster.ui.death_text import killed_in_words, signal_name
from muster.ui.formatting import seconds as duration
from muster.ui.summary import exception_of

if TYPE_CHECKING:  # commands that only list runs do not need it
    from muster.core.events import Escalating, Hanging, Notice

JOB_ENDS: Mapping[str, str] = {
    "time limit": "the job reached its time limit",
    "cancelled": "the job was cancelled",
    "preempted": "the job was preempted",
    "requeued": "the job was requeued",
    "node failure": "a node of the job failed",
}
"""Why a scheduler ends a job; see `events.JOB_ENDS`."""


# ---- why a run ended ------------------------------------------------------------------------------------------------


def reason_in_words(reason: StopReason | None) -> str:
    """Return why a run was stopped, as a sentence; empty if the ranks exited by themselves."""
    if reason is None:
        return ""
    words = _reason(reason)
    if reason.again and reason.kind is StopKind.SIGNAL and reason.signal == SIGINT:
        return "interrupted (Ctrl-C, twice)"
    return f"{words}, then Ctrl-C" if reason.again else words


def _reason(reason: StopReason) -> str:
    kind, number = reason.kind, reason.signal
    if kind is StopKind.SIGNAL and number == SIGINT:
        return "interrupted (Ctrl-C)"
    if kind is StopKind.SIGNAL and number == SIGHUP:
        return "the terminal was closed (SIGHUP)"
    if kind is StopKind.SIGNAL:
        return f"received {signal_name(number or 0)}"
    if kind is StopKind.KILL:
        return "`muster kill`" + (f" by {safe(reason.by)}" if reason.by else "")
    if kind is StopKind.OWNER_GONE and not reason.seconds:
        return "the program that started it has ended"
    if kind is StopKind.OWNER_GONE:
        return f"the terminal that started the run was gone for {reason.seconds:g}s (--lease)"
    if kind is StopKind.MAIN_ROLE:
        return f"role {safe(reason.message)} succeeded"
    if kind is StopKind.RELEASED and reason.seconds:
        return f"released: no run for {duration(reason.seconds)} (--idle)"
    if kind is StopKind.RELEASED:
        return "released" + (f" by {safe(reason.by)}" if reason.by else "")
    if kind is StopKind.TIMEOUT:
        return f"reached --timeout of {reason.seconds:g}s"
    if kind is StopKind.HANG:
        why = f": {reason.message}" if reason.message else ""
        return f"no rank made progress for {duration(reason.seconds)} (--hang-timeout){why}"
    if kind is StopKind.STORE:
        how = f"exit status {reason.code}" if number is None else f"killed by signal {number}"
        return f"the rendezvous store exited: {how}" + (f"; see {reason.log}" if reason.log else "")
    if kind is StopKind.PROBLEM:
        return "; ".join(problem_in_words(problem) for problem in reason.problems)
    if kind is StopKind.SCHEDULER and reason.early and reason.cause == "time limit":
        return "the ranks exited before the time limit of the job, as requested"
    if kind is StopKind.SCHEDULER and reason.cause in JOB_ENDS:
        return JOB_ENDS[reason.cause]
    return reason.message


def hint_of(reason: StopReason | None) -> str:
    """Return what to do about it; empty if nothing."""
    if reason is None:
        return ""
    return reason.hint or "; ".join(dict.fromkeys(filter(None, map(_hint_of_problem, reason.problems))))


def reason_with_hint(reason: StopReason | None) -> str:
    """Return the sentence, with the hint on a line of its own."""
    hint = hint_of(reason)
    return reason_in_words(reason) + (f"\nhint: {hint}" if hint else "")


# ---- messages during a run ------------------------------------------------------------------------------------------


def ended_in_words(end: RankExit) -> str:
    """Return how one rank exited, as the end of a sentence."""
    if end.signal is not None:
        return killed_in_words(end)
    if end.facts is not None and signal_of(end) == SIGKILL and death_of(end).cause is not DeathCause.UNKNOWN:
        return f"exit status {end.code}, its program was {killed_in_words(end)}"
    if end.failure is not None and end.failure.kind is FailureKind.NEVER_REGISTERED:
        return safe(end.failure.summary)
    if end.failure is not None and end.failure.kind is not FailureKind.EXIT:
        name = exception_of(end)
        return f"{name}, exit status {end.code}" if name else f"exit status {end.code}"
    return f"exit status {end.code}" + (f" ({_STATUSES[end.code]})" if end.code in _STATUSES else "")


_STATUSES: Mapping[int | None, str] = {
    75: "EX_TEMPFAIL: temporary failure, start again",
    126: "command is not executable",
    127: "command not found",
}
"""Exit codes with a conventional meaning."""


def notice_in_words(notice: Notice, roles: Sequence[RoleRanks] = ()) -> str:
    """Return the supervisor's message to the user, about a run with these roles."""
    from muster.core.events import Escalating, Hanging, Restarting

    if isinstance(notice, Hanging):
        return _hang(notice)
    if isinstance(notice, Escalating):
        return _escalation(notice)
    if isinstance(notice, Restarting):
        first = notice.first
        reason = reason_in_words(without_verdict(notice.reason))
        who = f"{rank_in_words(first.rank, roles)} failed: {_end_in_brief(first)}" if first else reason
        count = f"{notice.restart} of {notice.restarts}"
        when = f" in {notice.delay:g}s" if notice.delay else ""
        return f"{who or 'a rank failed'}; restarting all ranks{when} (restart {count})"
    return "not waiting for orphaned processes"


def _hang(notice: Hanging) -> str:
    then = {OnHang.KILL: "; terminating the run", OnHang.RESTART: "; terminating all ranks"}.get(notice.on_hang, "")
    first = f"warning: no rank has made progress for {duration(notice.seconds)}{then}"
    # the result of a run that is ended has the verdict as its first line
    return "\n".join([first, *notice.verdict[notice.on_hang is OnHang.KILL :]])


def _end_in_brief(end: RankExit) -> str:
    if end.failure is not None and end.failure.kind is FailureKind.ABSENT:
        return "did not come to where others waited"
    return ended_in_words(end) if end.signal is None else f"killed by {signal_name(end.signal)}"


def without_verdict(reason: StopReason | None) -> StopReason | None:
    """Return a reason without the verdict on a hang, which is printed separately."""
    return reason._replace(message="") if reason is not None and reason.kind is StopKind.HANG else reason


def _escalation(notice: Escalating) -> str:
    ranks, number = notice.ranks, notice.number
    many = plural(len(ranks), "rank") if len(ranks) > 1 else f"rank {ranks[0]}"
    reason = reason_in_words(without_verdict(notice.reason))
    if number == SIGKILL:
        return f"{reason}: killing {many} (SIGKILL)" if reason else f"killing {many}, still running (SIGKILL)"
    if number == SIGQUIT:
        many += ", or SIGQUIT where handled"
    name = "SIGINT" if number == SIGINT else "SIGTERM"
    if notice.reason is not None and notice.reason.kind is StopKind.PROBLEM:
        # the supervisor does not know which of them exist: a rank that cannot be started never exits
        many, reason = "the ranks that have started", f"{reason};"
        return f"{reason} sending {name} to {many}, grace period {notice.wait:g}s"
    hint = "; press Ctrl-C again to kill them now" if number == SIGINT else ""
    return f"{reason}: sending {name} to {many}, grace period {notice.wait:g}s{hint}"


def repeated_in_words(found: Repeated, end: RankExit | None) -> str:
    """Return why a run was not restarted again; `end` is the exit of the rank that failed first."""
    same = "twice" if found.rank == found.before else f"as rank {found.before} before,"
    how = safe(found.exception) or (_end_in_brief(end) if end is not None else "")
    place = f" ({safe(found.place)})" if found.place else ""
    return f"not restarted: rank {found.rank} failed in the same way {same} in the first minute: {how}{place}"


def replaced_in_words(found: Replaced) -> str:
    """Return which host was replaced by a spare, when and why."""
    when = "at the start" if found.attempt is None else f"for attempt {found.attempt}"
    return f"{safe(found.by)} replaced {safe(found.host)} {when}: {safe(found.why)}"


# ---- leftover processes ---------------------------------------------------------------------------------------------


def process_in_words(found: Leftover) -> str:
    """Return a process as text: name, pid and state."""
    if not found.pid:
        return safe(found.process)  # as recorded by an older version
    state = {"D": ", blocked in the kernel, cannot be killed", "T": ", stopped"}.get(found.state, "")
    return f"{safe(found.process)} (pid {found.pid}{state}{', holds a GPU' if found.gpu else ''})"


def processes_in_words(found: Iterable[Leftover]) -> str:
    """Return several processes as text."""
    return "; ".join(map(process_in_words, found))


def leftover_in_words(found: Leftover) -> str:
    """Return a leftover process, and what happened to it."""
    how = "orphaned process, killed by muster" if found.killed else "orphaned process, still running"
    return f"{how}: {process_in_words(found)}"


def lost_in_words(node: LostNode) -> str:
    """Return the message about a node whose ranks were not seen to exit."""
    return f"exit of its ranks not observed: {safe(node.why)}"


# ---- why ranks could not be started ---------------------------------------------------------------------------------


def problem_in_words(problem: Problem) -> str:
    """Return why agents could not start their ranks."""
    hosts, kind, python, text = fold_hostlist(problem.hosts), problem.kind, safe(problem.python), safe(problem.text)
    on = f"{hosts}: " if problem.among_others else ""
    if _has_no_torch(problem):
        return f"{on}torch is not installed in {python} (Python {safe(problem.version) or '?'})"
    if kind is ProblemKind.OLD_TORCH:
        return f"{on}{python} has torch {safe(problem.torch)}, muster requires {problem.needed} or newer"
    if kind is ProblemKind.IMPORT:
        return f"{on}`import {safe(problem.module)}` failed in {python}: {text}"
    if kind is ProblemKind.FORK:
        return f"{hosts}: cannot fork more than {plural(problem.number, 'rank')}: {text}"
    if kind is ProblemKind.FORK_SERVER:
        signal = problem.signal
        how = f"exit status {problem.code}" if signal is None else f"killed by {signal_name(signal)}"
        return f"{on}the fork server exited while importing torch ({how})"
    if kind is ProblemKind.LAUNCHER:
        return f"{on}cannot start {safe(problem.name)}: {text}"
    if kind is ProblemKind.RANK:
        return f"{on}cannot start rank {problem.rank}: {text}"
    if kind is ProblemKind.PORT:
        return f"{on}cannot open a port for the rendezvous: {text}"
    if kind is ProblemKind.PROTOCOL:
        return f"the agent on {hosts} has protocol version {problem.version}, muster {problem.needed}"
    if kind is ProblemKind.VERSIONS:
        told = fold_values((host, safe(value)) for host, value in problem.values)
        return f"{problem.name} differs between hosts: {told}"
    return problem.text


def _has_no_torch(problem: Problem) -> bool:
    went_missing = problem.kind is ProblemKind.IMPORT and problem.missing and problem.module == "torch"
    return problem.kind is ProblemKind.NO_TORCH or went_missing


def _hint_of_problem(problem: Problem) -> str:
    kind, python = problem.kind, safe(problem.python)
    if _has_no_torch(problem) or kind is ProblemKind.OLD_TORCH:
        return f"install it with `{python} -m pip install torch`, or choose another Python with --python"
    if problem.limit:
        return FEWER_PROCESSES
    if kind is ProblemKind.IMPORT:
        of_torch = problem.module.startswith("torch")
        return f"run it by hand: {python} -c 'import torch'" if of_torch else "check --preload"
    return _HINTS.get(kind, "")


_HINTS: Mapping[ProblemKind, str] = {
    ProblemKind.FORK: "use fewer ranks",
    ProblemKind.FORK_SERVER: "see warm.log in the run directory, or use --launcher exec",
    ProblemKind.LAUNCHER: "see launcher.log in the run directory",
    ProblemKind.PORT: "check `ulimit -n`, and the addresses of that host with `ip addr`",
    ProblemKind.RANK: "run it by hand, on that host and in the working directory",
}


def folded(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Merge problems that differ only in their hosts."""
    alike = by_value((problem.hosts, problem._replace(hosts=())) for problem in problems)
    return tuple(
        problem._replace(hosts=tuple(host for several in hosts for host in several)) for problem, hosts in alike.items()
    )
