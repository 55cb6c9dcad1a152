"""Every sentence of `ui/text.py`, together in tests/golden/messages.txt, for review."""

from __future__ import annotations

from typing import Any, Callable

import pytest
from test_summary import EVENTS

from muster.core.layout import layout, unfold
from muster.core.model import BUNDLED, Host, Job, Plan, Program
from muster.core.results import (
    Failure,
    FailureKind,
    Leftover,
    Problem,
    ProblemKind,
    RankExit,
    Repeated,
    RunResult,
    RunState,
    StopKind,
    StopReason,
)
from muster.core.root_cause import alike
from muster.launchers import make_plan
from muster.ui.command_text import program_in_words
from muster.ui.death_text import SIGNALS, signal_name
from muster.ui.reason_text import ended_in_words, reason_in_words, reason_with_hint
from muster.ui.text import begin_in_words, others_in_words, outcome_in_words, show_in_words

RUN = "20261121-120000-ab12-train"

JOB = Job(
    program=Program("script", ("train.py", "--lr", "0.1")),
    launcher="fork",
    python="/venv/bin/python",
    python_source="the active virtual environment",
    cwd="/home/ann/work",
)

FACTS = {"executable": "/venv/bin/python", "python": "3.11.7", "torch": "2.13.0+cpu", "fork": True}


def plan(job: Job, ranks: int = 4, threads: int = 1) -> Plan:
    return make_plan(job, layout([(Host("a", threads=threads), ranks)]), RUN)


BEGINS: dict[str, tuple[Plan, dict[str, Any]]] = {
    "forked": (plan(JOB), FACTS),
    "one rank, with two threads": (plan(JOB, 1, threads=2), FACTS),
    "not forked after all": (plan(JOB), {**FACTS, "fork": False}),
    "plain processes, whose torch nobody asked for": (
        plan(JOB._replace(launcher="exec"), threads=0),
        {"executable": "/venv/bin/python", "python": "3.11.7"},
    ),
    "a program": (plan(JOB._replace(launcher="exec", program=Program("command", ("./train",)))), {"fork": False}),
}

RAISED = RankExit(
    3,
    0,
    41.5,
    1,
    failure=Failure(
        FailureKind.EXCEPTION,
        41.2,
        "ValueError: bad batch",
        ("Traceback (most recent call last):", '  File "train.py", line 9, in <module>', "ValueError: bad batch"),
    ),
)
LOST = RankExit(1, 0, 41.9, 1, failure=Failure(FailureKind.PEER_LOST, 41.8, "RuntimeError: Connection closed by peer"))
ENDED = RankExit(0, 0, 5.0, 7, failure=Failure(FailureKind.EXIT, 5.0, "no data in /data", ("no data in /data",)))

RANK_ENDS: dict[str, RankExit] = {
    "an exit status": RankExit(0, 0, 5.0, 7),
    "an exit status, after words": ENDED,
    "an exception": RAISED,
    "an exception for want of a peer": LOST,
    "an exception without words of its own": RAISED._replace(
        failure=Failure(FailureKind.EXCEPTION, 1.0, "KeyboardInterrupt")
    ),
    **{signal_name(number): RankExit(0, 0, 5.0, signal=number) for number in SIGNALS},
    "a signal without a name": RankExit(0, 0, 5.0, signal=40),
}


def ended_by_us(rank: int) -> RankExit:
    return RankExit(rank, 0, 42.0, signal=15, by_muster=True)


def ended_well(rank: int) -> RankExit:
    return RankExit(rank, 0, 42.0, 0)


CTRL_C = StopReason(StopKind.SIGNAL, signal=2)


def lost(words: str) -> StopReason:
    """The agent of node 0 is gone."""
    return StopReason(StopKind.NODE_LOST, node=0, message=words)


PLACED = RankExit(
    1,
    0,
    41.5,
    1,
    failure=Failure(
        FailureKind.EXCEPTION,
        41.2,
        "TrainerError: step 9 failed (caused by KeyError: 'lr')",
        ("Traceback (most recent call last):", '  File "train.py", line 9, in <module>', "TrainerError: step 9 failed"),
        "train.py:21 in check",
    ),
)
WAITED = RankExit(
    0,
    0,
    41.9,
    1,
    failure=Failure(FailureKind.TIMED_OUT, 41.8, "RuntimeError: Rank 2 failed to pass monitoredBarrier in 5000 ms"),
)
ABSENT = ended_by_us(2)._replace(
    failure=Failure(FailureKind.ABSENT, 41.8, WAITED.failure.summary, proven=False, blames=(3,))
)
LONG = RAISED._replace(rank=9, failure=RAISED.failure._replace(frames=tuple(f"line {number}" for number in range(40))))


OUTCOMES: dict[str, tuple[RunResult, int]] = {
    "succeeded": (RunResult(RunState.SUCCEEDED, 0, 75.0, exits=tuple(map(ended_well, range(4)))), 4),
    "succeeded, one rank": (RunResult(RunState.SUCCEEDED, 0, 1.5, exits=(ended_well(0),)), 1),
    "succeeded, and left something behind": (
        RunResult(
            RunState.SUCCEEDED, 0, 11.5, exits=(ended_well(0),), leftovers=(Leftover("sleep 99", 71, killed=True),)
        ),
        1,
    ),
    "failed: an exception": (
        RunResult(
            RunState.FAILED,
            1,
            42.0,
            root_cause=RAISED,
            exits=(ended_well(0), LOST, ended_by_us(2), RAISED, ended_by_us(4)),
        ),
        5,
    ),
    "failed: a signal, in the third attempt": (
        RunResult(
            RunState.FAILED, 139, 42.0, attempt=2, root_cause=RankExit(0, 0, 0.3, signal=11), exits=(ended_by_us(1),)
        ),
        2,
    ),
    "failed: twice in the same way": (
        RunResult(
            RunState.FAILED,
            1,
            42.0,
            attempt=1,
            root_cause=RAISED,
            exits=(ended_by_us(0), RAISED),
            repeated=Repeated(3, 3, "ValueError", "train.py:9"),
        ),
        2,
    ),
    "failed: killed twice, but another rank": (
        RunResult(
            RunState.FAILED,
            137,
            42.0,
            attempt=1,
            root_cause=RankExit(1, 0, 0.3, signal=9),
            exits=(ended_by_us(0), RankExit(1, 0, 0.3, signal=9)),
            repeated=Repeated(1, 0),
        ),
        2,
    ),
    "failed: words on stderr, and something still lives": (
        RunResult(
            RunState.FAILED,
            7,
            42.0,
            root_cause=ENDED,
            exits=(ENDED,),
            leftovers=(Leftover("dd (pid 72, waits in the kernel)"),),
        ),
        1,
    ),
    "failed: every rank in its own way": (
        RunResult(
            RunState.FAILED,
            7,
            42.0,
            root_cause=ENDED,
            exits=(
                ENDED,
                LOST,
                LOST._replace(rank=2),
                RAISED,
                RankExit(4, 0, 42.0, signal=9),
                RankExit(5, 0, 42.0, 143, by_muster=True),
                ended_well(6),
                RankExit(7, 0, 42.0, signal=15, by_launcher=True),
                RankExit(8, 0, 42.0, 3, by_launcher=True),
                RankExit(9, 0, 42.0, signal=6, late=True),
            ),
        ),
        10,
    ),
    "failed: where, and at the end of a chain": (
        RunResult(
            *(RunState.FAILED, 1, 42.0),
            root_cause=PLACED,
            exits=(ended_by_us(0), PLACED),
        ),
        2,
    ),
    "failed: all ranks alike": (
        RunResult(
            *(RunState.FAILED, 1, 42.0),
            root_cause=PLACED,
            exits=tuple(PLACED._replace(rank=rank) for rank in range(4)),
        ),
        4,
    ),
    "failed: some ranks alike": (
        RunResult(
            *(RunState.FAILED, 1, 42.0),
            root_cause=PLACED,
            exits=(ended_by_us(0), *(PLACED._replace(rank=rank) for rank in (1, 2))),
        ),
        3,
    ),
    "failed: only lost peers": (
        RunResult(*(RunState.FAILED, 1, 42.0), root_cause=LOST, exits=(LOST._replace(rank=0), LOST)),
        2,
    ),
    "failed: a rank left early": (
        RunResult(
            *(RunState.FAILED, 1, 42.0), root_cause=ended_well(2), exits=(LOST._replace(rank=0), LOST, ended_well(2))
        ),
        3,
    ),
    "failed: ranks did not come": (
        RunResult(
            *(RunState.FAILED, 1, 42.0),
            root_cause=ABSENT,
            exits=(WAITED, WAITED._replace(rank=1), ABSENT, ended_by_us(3)),
        ),
        4,
    ),
    "failed: a long traceback, and each rank in another way": (
        RunResult(
            *(RunState.FAILED, 1, 42.0),
            root_cause=LONG,
            exits=(*(RankExit(rank, 0, 42.0, rank + 3) for rank in range(9)), LONG),
        ),
        10,
    ),
    "succeeded, with notes": (
        RunResult(
            *(RunState.SUCCEEDED, 0, 75.0),
            exits=(ended_well(0)._replace(notes=("the last loss in its output is nan",)), ended_well(1)),
        ),
        2,
    ),
    "failed: the store": (
        RunResult(
            RunState.FAILED,
            125,
            42.0,
            stopped=StopReason(StopKind.STORE, signal=9, log="/runs/x/node_a/store.log"),
            root_cause=LOST,
            exits=(ended_by_us(0), LOST),
        ),
        2,
    ),
    "interrupted": (
        RunResult(RunState.INTERRUPTED, 130, 42.0, stopped=CTRL_C, exits=(ended_by_us(0), ended_well(1))),
        2,
    ),
    "interrupted after a rank had failed": (
        RunResult(RunState.INTERRUPTED, 130, 42.0, stopped=CTRL_C, root_cause=ENDED, exits=(ENDED, ended_by_us(1))),
        2,
    ),
    "interrupted before anything was started": (RunResult(RunState.INTERRUPTED, 130, 0.3, stopped=CTRL_C), 2),
    "killed": (
        RunResult(
            RunState.KILLED,
            137,
            42.0,
            stopped=StopReason(StopKind.KILL, by="ann (pid 12)"),
            exits=tuple(map(ended_by_us, range(2))),
        ),
        2,
    ),
    "timed out": (
        RunResult(
            RunState.TIMED_OUT,
            124,
            70.2,
            stopped=StopReason(StopKind.TIMEOUT, seconds=60.0),
            exits=tuple(map(ended_by_us, range(2))),
        ),
        2,
    ),
    "broken: it could not begin": (
        RunResult(
            RunState.ERROR,
            125,
            0.8,
            stopped=StopReason(StopKind.OTHER, message="there is no torch in python", hint="install it there"),
        ),
        2,
    ),
    "broken: the agent was killed": (
        RunResult(
            RunState.ERROR, 125, 42.0, stopped=lost("the agent on a exited (killed by signal 9), and its ranks with it")
        ),
        2,
    ),
    "broken after a rank had failed": (
        RunResult(
            RunState.ERROR,
            125,
            42.0,
            stopped=lost("the agent on a ended (killed by signal 9)"),
            root_cause=ENDED,
            exits=(ENDED,),
        ),
        1,
    ),
}

UNABLE: dict[str, tuple[ProblemKind, dict[str, Any]]] = {
    "no torch": (ProblemKind.NO_TORCH, {"version": "3.9.2"}),
    "torch is too old": (ProblemKind.OLD_TORCH, {"torch": "1.13.1", "version": "3.9.2"}),
    "torch went missing": (ProblemKind.IMPORT, {"module": "torch", "missing": True, "text": "no module named torch"}),
    "torch is broken": (
        ProblemKind.IMPORT,
        {"module": "torch", "missing": False, "text": "ImportError: libcudart.so.12: cannot open shared object file"},
    ),
    "what --preload names is missing": (
        ProblemKind.IMPORT,
        {"module": "transformers", "missing": True, "text": "ModuleNotFoundError: No module named 'transformers'"},
    ),
    "it cannot fork as often": (
        ProblemKind.FORK,
        {"number": 17, "text": "[Errno 11] Resource temporarily unavailable", "limit": True},
    ),
    "the warm interpreter was killed": (ProblemKind.FORK_SERVER, {"code": None, "signal": 9}),
    "the fork server exited": (ProblemKind.FORK_SERVER, {"code": 3, "signal": None}),
    "no port for the store": (ProblemKind.PORT, {"text": "Too many open files"}),
    "a program cannot be started": (ProblemKind.RANK, {"rank": 3, "text": "[Errno 8] Exec format error: './train'"}),
}

RECORD = {
    "name": "night",
    "argv": ["muster", "run", "-g", "2", "my train.py", "--lr", "0.1"],
    "cwd": "/home/ann/work",
    "host": "a",
    "started": "2026-11-21 12:00:00",
}


HOW: dict[str, Any] = {"launcher": "fork", "program": {"kind": "script", "argv": ["train.py"]}}
TOLD: list[dict[str, Any]] = [
    {"event": "hello", "node": 1, "python": "3.9.1"},
    {"event": "hello", "node": 0, "executable": "/opt/python", "python": "3.11.7"},
    {"event": "warm", "node": 0, "fork": False, "torch": "2.13.0"},
    {"event": "begin", "facts": "damaged"},
]
USES = "RANK  HOST  PID  MEMORY   CPU   CHILDREN\n0     n1    71   1.3 GiB  98 %"


def shown() -> dict[str, str]:
    """The output of `muster show`."""
    failed, again = OUTCOMES["failed: an exception"][0], OUTCOMES["succeeded"][0]._replace(attempt=1)
    return {
        "all is known": show_in_words(RUN, RECORD, "failed", failed, EVENTS),
        "in a second attempt": show_in_words(RUN, RECORD, "succeeded", again, []),
        "it runs": show_in_words(RUN, {**RECORD, "name": ""}, "running", None, EVENTS[:2]),
        "it runs, and tells": show_in_words(
            RUN, {**RECORD, "ranks": 4, "job": HOW}, "running", None, [*EVENTS[:2], *TOLD], ("n1", "n2"), now=USES
        ),
        "nothing is known": show_in_words(RUN, {}, "lost: muster and its agent were killed", None, []),
    }


def section(title: str, texts: dict[str, str]) -> str:
    parts = [f"== {title} ==\n"]
    parts += [f"-- {name}\n{text}\n" for name, text in texts.items()]
    return "\n".join(parts)


def test_a_rank_that_met_the_same_error_while_it_was_asked_to_exit_has_failed_alike() -> None:
    asked = PLACED._replace(rank=0, by_muster=True)
    assert (asked, PLACED) == alike(PLACED, (asked, PLACED))
    assert PLACED.failure is not None
    other = asked._replace(failure=PLACED.failure._replace(summary="TrainerError: interrupted"))
    killed = asked._replace(code=None, signal=15)
    assert (PLACED,) == alike(PLACED, (other, killed, PLACED))


def test_every_message(golden: Callable[..., None]) -> None:
    """All messages of muster on one page."""
    sections = [
        section(
            "the first line of a run", {name: begin_in_words(p, RUN, facts) for name, (p, facts) in BEGINS.items()}
        ),
        section("how a rank ended", {name: ended_in_words(end) for name, end in RANK_ENDS.items()}),
        section("how a run ended", {name: outcome_in_words(o, RUN, size) for name, (o, size) in OUTCOMES.items()}),
        section("muster show", shown()),
    ]
    golden("messages.txt", "\n".join(sections))


def test_failures_of_an_agent(golden: Callable[..., None]) -> None:
    """In words, from the fields of the agent's message (`agent/ranks.py`)."""
    texts = {}
    for name, (kind, fields) in UNABLE.items():
        problem = Problem(kind, ("a",), python="/venv/bin/python", needed="2.3", **fields)
        texts[name] = reason_with_hint(StopReason(StopKind.PROBLEM, problems=(problem,)))
    golden("messages-unable.txt", section("what an agent could not do", texts))


@pytest.mark.parametrize(
    ("kind", "argv", "words"),
    [
        ("script", ["a b.py", "--x"], "'a b.py' --x"),
        ("module", ["pkg.train", "1"], "-m pkg.train 1"),
        ("script", [f"{BUNDLED}check.py"], "check.py"),
    ],
)
def test_a_program_is_shown_as_typed(kind: str, argv: list[str], words: str) -> None:
    assert words == program_in_words(kind, argv)


@pytest.mark.parametrize("name", OUTCOMES)
def test_a_report_is_short(name: str) -> None:
    outcome, size = OUTCOMES[name]
    assert len(outcome_in_words(outcome, RUN, size).splitlines()) < 25


@pytest.mark.parametrize("name", OUTCOMES)
def test_the_cause_of_the_end_is_always_reported(name: str) -> None:
    """The reason if there is one; otherwise the rank that failed, if one did."""
    outcome, size = OUTCOMES[name]
    text = outcome_in_words(outcome, RUN, size)
    assert reason_in_words(outcome.stopped) in text
    if outcome.root_cause is not None:
        assert f"rank {outcome.root_cause.rank}" in text
        assert f"muster logs {RUN} --rank {outcome.root_cause.rank}" in text


@pytest.mark.parametrize(
    "name", [name for name, (outcome, _) in OUTCOMES.items() if outcome.state is not RunState.SUCCEEDED]
)
def test_every_rank_is_reported_once(name: str) -> None:
    """In a run that failed: the first one, and the others combined to a line for each kind of end."""
    outcome = OUTCOMES[name][0]
    told = [line.partition(":")[0].split()[1] for line in others_in_words(outcome)]
    assert len(told) == len({line.partition(":")[2] for line in others_in_words(outcome)}), "equal ends are one line"
    found = sorted(rank for text in told for rank in unfold(text))
    cause = outcome.root_cause
    first = set() if cause is None else {cause.rank}
    if cause is not None and outcome.stopped is None:
        first |= {end.rank for end in alike(cause, outcome.exits)}  # named in the first line
    assert found == sorted({end.rank for end in outcome.exits} - first)
