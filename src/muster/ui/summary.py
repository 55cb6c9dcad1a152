"""What is reported about a run, as values: the rank that failed first, the fate of the others, the start-up times.

The sentences are made in `text.py`; any other presentation reports the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from muster.core.fold import by_value
from muster.core.results import SIGABRT, FailureKind, RankExit, RunResult, RunState, TextEnum, Unlogged
from muster.core.root_cause import CASCADE, alike, is_own_failure
from muster.diagnostics.hints import Judgement, hint_for, judgement_of
from muster.ui.misplaced import misplaced_option

# ---- how a run ended ------------------------------------------------------------------------------------------------


class FirstFailure(NamedTuple):
    """The rank whose failure ended the run."""

    end: RankExit
    host: str
    """The name of its node; empty if unknown."""
    among_others: bool
    """True if there are several nodes."""
    hint: str
    """What may help; empty if unknown."""
    judgement: Judgement
    alike: list[int]
    """The ranks that failed in the same way at the same time, with this one."""
    within: float
    """Seconds between the first and the last of them."""
    missing: list[int]
    """The ranks that left early, or did not come to where others waited; empty if it failed otherwise."""


class Role(TextEnum):
    """What the exit of a rank is in a run that failed."""

    CAUSE = "cause"
    CASCADE = "cascade"
    """It failed because of the cause."""
    TEARDOWN = "teardown"
    """It was terminated after the cause."""


class Fate(TextEnum):
    """The fate of a rank that did not fail first."""

    SUCCEEDED = "succeeded"
    TERMINATED = "terminated"
    """By muster."""
    TERMINATED_BY_LAUNCHER = "terminated by the launcher"
    PEER_LOST = "peer lost"
    TIMED_OUT = "timed out"
    MISMATCH = "mismatch"
    FAILED = "failed"


class EndedAlike(NamedTuple):
    """Ranks that exited in the same way."""

    ranks: list[int]
    fate: Fate
    end: RankExit
    """The exit of one of them."""


class MissingOutput(NamedTuple):
    """Output missing in the logs of these ranks, for one reason."""

    ranks: list[int]
    size: int
    """Total bytes of all of them."""
    why: str


def first_failure(outcome: RunResult, hosts: Sequence[str] = ()) -> FirstFailure | None:
    """Return the rank whose failure ended the run; None if it ended otherwise. `hosts`: the names of its nodes."""
    if outcome.state is not RunState.FAILED or outcome.root_cause is None or outcome.stopped is not None:
        return None
    return failure_before(outcome, hosts)


def failure_before(outcome: RunResult, hosts: Sequence[str] = ()) -> FirstFailure | None:
    """Return the rank that failed first, even if that did not end the run; None if none did."""
    first = outcome.root_cause
    if first is None:
        return None
    host, several = hosts[first.node] if first.node < len(hosts) else "", len(hosts) > 1
    same = alike(first, outcome.exits) or (first,)
    times = [time_of_failure(end) for end in same]
    missing = []
    if first.failure is not None and first.failure.kind is FailureKind.ABSENT:
        missing = sorted({first.rank, *first.failure.blames})
    elif first.ok:
        missing = [first.rank]
    return FirstFailure(
        *(first, host, several, hint_for(first, host, several) or misplaced_option(first), judgement_of(first)),
        alike=sorted(end.rank for end in same),
        within=max(times) - min(times),
        missing=missing,
    )


def role_of(end: RankExit, outcome: RunResult) -> Role | None:
    """Return what the exit of this rank is; None in a run that succeeded, and for a rank that was done before."""
    first = outcome.root_cause
    if first is not None and (
        end.rank == first.rank or end.rank in {same.rank for same in alike(first, outcome.exits)}
    ):
        return Role.CAUSE
    if end.by_muster or end.by_launcher or end.late:
        return Role.TEARDOWN
    return None if end.ok else Role.CASCADE


def caused_by_others_only(end: RankExit) -> bool:
    """Return whether no rank failed by itself: even the first one only lost a peer."""
    return not end.ok and not end.by_muster and not is_own_failure(end) and _kind(end) in CASCADE


def _kind(end: RankExit) -> FailureKind | None:
    return end.failure.kind if end.failure is not None else None


def time_of_failure(end: RankExit) -> float:
    """Return when it failed, in seconds after the start."""
    return end.failure.when if end.failure is not None else end.when


def exception_of(end: RankExit) -> str:
    """Return the name of the exception; empty if there was none, or it is unknown."""
    if _kind(end) in (None, FailureKind.EXIT, FailureKind.NEVER_REGISTERED, FailureKind.ABSENT) or end.failure is None:
        return ""
    name = end.failure.summary.partition(":")[0]
    return name if name.replace(".", "").isidentifier() else ""  # a lost peer may be reported without an exception


def other_ends(outcome: RunResult) -> list[EndedAlike]:
    """Return what happened to the ranks that did not fail first, grouped by equal exits."""
    first = outcome.root_cause
    told = {first.rank} if first is not None else set()
    if first is not None and outcome.stopped is None:
        told |= {end.rank for end in alike(first, outcome.exits)}
    others = [end for end in outcome.exits if end.rank not in told]
    groups = by_value((end, _likeness(end)) for end in others)
    found = [EndedAlike([end.rank for end in ends], _fate(ends[0]), ends[0]) for ends in groups.values()]
    return sorted(found, key=lambda group: group.ranks)


def _fate(end: RankExit) -> Fate:
    if end.ok:
        return Fate.SUCCEEDED
    if end.by_muster:
        return Fate.TERMINATED
    if end.by_launcher:
        return Fate.TERMINATED_BY_LAUNCHER
    if end.signal not in (None, SIGABRT):
        return Fate.FAILED
    return _FATES.get(_kind(end), Fate.FAILED)


_FATES: Mapping[FailureKind | None, Fate] = {
    FailureKind.PEER_LOST: Fate.PEER_LOST,
    FailureKind.TIMED_OUT: Fate.TIMED_OUT,
    FailureKind.NO_CONNECTION: Fate.TIMED_OUT,
    FailureKind.MISMATCH: Fate.MISMATCH,
}


def _likeness(end: RankExit) -> tuple[Any, ...]:
    """Return a key that is equal for exits that are reported together."""
    fate = _fate(end)
    if fate is Fate.SUCCEEDED or fate in _FATES.values():
        return (fate,)
    if end.signal is not None or fate is not Fate.FAILED:
        return (fate, end.signal, end.code if end.signal is None else None)
    if end.failure is not None and end.failure.kind is FailureKind.NEVER_REGISTERED:
        return (fate, end.failure.summary)
    raised = end.failure is not None and end.failure.kind is not FailureKind.EXIT
    return (fate, end.code, raised, exception_of(end))


class Note(NamedTuple):
    """Something remarkable in the output of these ranks."""

    ranks: list[int]
    text: str


def notes_of(outcome: RunResult) -> list[Note]:
    """Return the notes about ranks, grouped by text."""
    found = by_value((end.rank, note) for end in outcome.exits for note in end.notes)
    return [Note(sorted(ranks), text) for text, ranks in found.items()]


def missing_output(unlogged: Iterable[Unlogged]) -> list[MissingOutput]:
    """Return the output missing in logs, grouped by reason."""
    return [
        MissingOutput(sorted({lacks.rank for lacks in logs}), sum(lacks.missing for lacks in logs), why)
        for why, logs in by_value((lacks, lacks.why) for lacks in unlogged).items()
    ]


# ---- how it started -------------------------------------------------------------------------------------------------


class Step(TextEnum):
    """A step of the start-up."""

    MUSTER = "muster"
    """From the start of muster to the start of its agent."""
    PROBE = "probe"
    """The agent probes the Python interpreter."""
    REACH = "reach"
    """The hosts are contacted, and their Python is probed."""
    PYTHON = "python"
    """Python starts."""
    IMPORT = "import"
    """It imports torch and the modules of --preload."""
    PREPARE_FORK = "prepare fork"
    PREPARE = "prepare"
    """Without a fork server."""
    START = "start"
    """Ranks are started."""
    FIRST_OUTPUT = "first output"
    LAST_OUTPUT = "last output"
    """The last rank has written something, too."""


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e18


def steps_of(events: Iterable[Mapping[str, Any]]) -> list[tuple[Step, float]]:
    """Return the duration of each start-up step in seconds, on the node that was ready last, from the events."""
    events = [event for event in events if _is_time(event.get("t"))]  # the file may be damaged
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        if event.get("attempt", 0) == 0:
            by_kind.setdefault(str(event.get("event")), []).append(event)

    def last(kind: str) -> Mapping[str, Any] | None:
        return max(by_kind.get(kind, ()), key=lambda event: float(event["t"]), default=None)

    marks: list[tuple[Step, float]] = []
    hello, warm, started = last("hello"), last("warm"), last("started")
    if hello is not None:
        marks.append((Step.MUSTER, hello["t"]))
    if warm is not None:
        told = warm.get("times")
        times = {name: when for name, when in told.items() if _is_time(when)} if isinstance(told, dict) else {}
        probe = Step.PROBE if hello is not None else Step.REACH
        for name, step in (("begun", probe), ("python", Step.PYTHON), ("imported", Step.IMPORT)):
            if name in times:
                marks.append((step, times[name]))
        marks.append((Step.PREPARE_FORK if warm.get("fork") else Step.PREPARE, warm["t"]))
    if started is not None:
        marks.append((Step.START, started["t"]))
    began = [event["t"] for event in events if event.get("event") == "output began" and event.get("attempt") == 0]
    failed = min((end["t"] for end in by_kind.get("ended", ()) if end.get("code") != 0), default=float("inf"))
    early = [when for when in began if when <= failed]
    if early:
        marks.append((Step.FIRST_OUTPUT, min(early)))
    if early and len(early) == len(began):  # otherwise some ranks wrote only that they had failed
        marks.append((Step.LAST_OUTPUT, max(early)))
    spans, before = [], 0.0
    for step, when in marks:
        spans.append((step, max(0.0, when - before)))
        before = when
    return spans


def facts_of(events: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the events tell about the ranks' Python: `executable`, `python`, `torch`, and whether they `fork`."""
    found: dict[str, Any] = {}
    for event in events:
        if event["event"] == "begin" and isinstance(event.get("facts"), dict):
            found.update(event["facts"])
        elif event["event"] in ("hello", "warm") and event.get("node") == 0:
            found.update({name: value for name, value in event.items() if value is not None})
    kinds: Mapping[str, type] = {"executable": str, "python": str, "torch": str, "fork": bool, "found": list}
    return {name: found[name] for name, kind in kinds.items() if isinstance(found.get(name), kind)}
