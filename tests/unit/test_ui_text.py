"""Every sentence of `report.py`, side by side in tests/golden/messages.txt, for a person to read."""

from __future__ import annotations

from typing import Any, Callable

import pytest

from muster.core.layout import layout, unfold
from muster.core.model import BUNDLED, Host, Job, Plan, Program
from muster.core.plurals import plural
from muster.core.results import (
    Failure,
    FailureKind,
    Leftover,
    Problem,
    ProblemKind,
    RankExit,
    RunResult,
    RunState,
    StopKind,
    StopReason,
)
from muster.launchers import make_plan
from muster.ui.sentences import SIGNALS, reason_in_words, reason_with_hint, signal_name
from muster.ui.text import (
    begin_in_words,
    ended_in_words,
    fitted,
    others_in_words,
    outcome_in_words,
    phases,
    program_in_words,
    seconds,
    show_in_words,
    size_in_words,
    table,
)

RUN = "20261121-120000-ab12-train"

SECONDS = [
    (0.0, "0.0 s"),
    (0.04, "0.0 s"),
    (0.84, "0.8 s"),
    (9.94, "9.9 s"),
    (9.95, "10 s"),
    (12.3, "12 s"),
    (59.4, "59 s"),
    (59.6, "1 min"),
    (61.0, "1 min 1 s"),
    (245.0, "4 min 5 s"),
    (3599.7, "1 h"),
    (12000.0, "3 h 20 min"),
    (3659.0, "1 h"),
    (86399.6, "1 d"),
    (187200.0, "2 d 4 h"),
]

JOB = Job(
    program=Program("script", ("train.py", "--lr", "0.1")),
    launcher="fork",
    python="/venv/bin/python",
    python_why="the active virtual environment",
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
    return RankExit(rank, 0, 42.0, signal=15, by_us=True)


def ended_well(rank: int) -> RankExit:
    return RankExit(rank, 0, 42.0, 0)


CTRL_C = StopReason(StopKind.SIGNAL, signal=2)


def lost(words: str) -> StopReason:
    """The agent of node 0 is gone."""
    return StopReason(StopKind.NODE_LOST, node=0, message=words)


OUTCOMES: dict[str, tuple[RunResult, int]] = {
    "succeeded": (RunResult(RunState.SUCCEEDED, 0, 75.0, ends=tuple(map(ended_well, range(4)))), 4),
    "succeeded, one rank": (RunResult(RunState.SUCCEEDED, 0, 1.5, ends=(ended_well(0),)), 1),
    "succeeded, and left something behind": (
        RunResult(RunState.SUCCEEDED, 0, 11.5, ends=(ended_well(0),), left=(Leftover("sleep 99", 71, killed=True),)),
        1,
    ),
    "failed: an exception": (
        RunResult(
            RunState.FAILED, 1, 42.0, first=RAISED, ends=(ended_well(0), LOST, ended_by_us(2), RAISED, ended_by_us(4))
        ),
        5,
    ),
    "failed: a signal, in the third attempt": (
        RunResult(RunState.FAILED, 139, 42.0, attempt=2, first=RankExit(0, 0, 0.3, signal=11), ends=(ended_by_us(1),)),
        2,
    ),
    "failed: words on stderr, and something still lives": (
        RunResult(
            RunState.FAILED, 7, 42.0, first=ENDED, ends=(ENDED,), left=(Leftover("dd (pid 72, waits in the kernel)"),)
        ),
        1,
    ),
    "failed: every rank in its own way": (
        RunResult(
            RunState.FAILED,
            7,
            42.0,
            first=ENDED,
            ends=(
                ENDED,
                LOST,
                LOST._replace(rank=2),
                RAISED,
                RankExit(4, 0, 42.0, signal=9),
                RankExit(5, 0, 42.0, 143, by_us=True),
                ended_well(6),
                RankExit(7, 0, 42.0, signal=15, by_launcher=True),
                RankExit(8, 0, 42.0, 3, by_launcher=True),
                RankExit(9, 0, 42.0, signal=6, late=True),
            ),
        ),
        10,
    ),
    "failed: the store": (
        RunResult(
            RunState.FAILED,
            125,
            42.0,
            stopped=StopReason(StopKind.STORE, signal=9, log="/runs/x/node_a/store.log"),
            first=LOST,
            ends=(ended_by_us(0), LOST),
        ),
        2,
    ),
    "interrupted": (
        RunResult(RunState.INTERRUPTED, 130, 42.0, stopped=CTRL_C, ends=(ended_by_us(0), ended_well(1))),
        2,
    ),
    "interrupted after a rank had failed": (
        RunResult(RunState.INTERRUPTED, 130, 42.0, stopped=CTRL_C, first=ENDED, ends=(ENDED, ended_by_us(1))),
        2,
    ),
    "interrupted before anything was started": (RunResult(RunState.INTERRUPTED, 130, 0.3, stopped=CTRL_C), 2),
    "killed": (
        RunResult(
            RunState.KILLED,
            137,
            42.0,
            stopped=StopReason(StopKind.KILL, by="ann (pid 12)"),
            ends=tuple(map(ended_by_us, range(2))),
        ),
        2,
    ),
    "timed out": (
        RunResult(
            RunState.TIMED_OUT,
            124,
            70.2,
            stopped=StopReason(StopKind.TIMEOUT, seconds=60.0),
            ends=tuple(map(ended_by_us, range(2))),
        ),
        2,
    ),
    "broken: it could not begin": (
        RunResult(
            RunState.BROKEN,
            125,
            0.8,
            stopped=StopReason(StopKind.OTHER, message="there is no torch in python", hint="install it there"),
        ),
        2,
    ),
    "broken: the agent was killed": (
        RunResult(
            RunState.BROKEN, 125, 42.0, stopped=lost("the agent on a ended (killed by signal 9), and its ranks with it")
        ),
        2,
    ),
    "broken after a rank had failed": (
        RunResult(
            RunState.BROKEN,
            125,
            42.0,
            stopped=lost("the agent on a ended (killed by signal 9)"),
            first=ENDED,
            ends=(ENDED,),
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
    "the warm interpreter ended": (ProblemKind.FORK_SERVER, {"code": 3, "signal": None}),
    "a program cannot be started": (ProblemKind.RANK, {"rank": 3, "text": "[Errno 8] Exec format error: './train'"}),
}

EVENTS: list[dict[str, Any]] = [
    {"event": "hello", "t": 0.05},
    {"event": "warm", "fork": True, "times": {"begun": 0.1, "python": 0.125, "imported": 1.0}, "t": 1.125},
    {"event": "do start", "attempt": 0, "port": 29500},
    {"event": "started", "t": 1.25, "attempt": 0},
    {"event": "output began", "t": 2.0, "attempt": 0, "rank": 1},
    {"event": "output began", "t": 2.5, "attempt": 0, "rank": 0},
]

RESTARTED: list[dict[str, Any]] = [
    {"event": "do listen", "attempt": 1},
    {"event": "do start", "attempt": 1, "port": 29501},
    {"event": "started", "t": 3600.0, "attempt": 1},
    {"event": "output began", "t": 3601.0, "attempt": 1, "rank": 0},
    {"event": "output began", "t": 3602.0, "attempt": 1, "rank": 1},
]

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
    """What `muster show` says."""
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


def test_every_message(golden: Callable[..., None]) -> None:
    """The whole voice of muster on one page."""
    sections = [
        section(
            "the first line of a run", {name: begin_in_words(p, RUN, facts) for name, (p, facts) in BEGINS.items()}
        ),
        section("how a rank ended", {name: ended_in_words(end) for name, end in RANK_ENDS.items()}),
        section("how a run ended", {name: outcome_in_words(o, RUN, size) for name, (o, size) in OUTCOMES.items()}),
        section("muster show", shown()),
    ]
    golden("messages.txt", "\n".join(sections))


def test_what_an_agent_could_not_do(golden: Callable[..., None]) -> None:
    """In words, from the fields of the frame that the agent sends (`agent/ranks.py`)."""
    texts = {}
    for name, (kind, fields) in UNABLE.items():
        problem = Problem(kind, ("a",), python="/venv/bin/python", needed="2.3", **fields)
        texts[name] = reason_with_hint(StopReason(StopKind.PROBLEM, problems=(problem,)))
    golden("messages-unable.txt", section("what an agent could not do", texts))


@pytest.mark.parametrize(("value", "words"), SECONDS)
def test_times_are_said_as_people_say_them(value: float, words: str) -> None:
    assert seconds(value) == words


def test_one_is_no_plural() -> None:
    assert [plural(0, "rank"), plural(1, "rank"), plural(2, "rank")] == ["0 ranks", "1 rank", "2 ranks"]
    assert ["1 host was", "2 hosts were"] == [plural(count, "host was", "hosts were") for count in (1, 2)]


def test_a_table_has_columns_and_no_spaces_at_its_right() -> None:
    rows = [("RUN", "NAME", "EXIT"), ("x", "a long name", ""), ("longer", "", "7")]
    assert table(rows) == "RUN     NAME         EXIT\nx       a long name\nlonger               7"


def test_a_table_fits_a_terminal() -> None:
    rows = [("RUN", "AT", "COMMAND"), ("one", "12:30", "train.py --lr 0.1 --momentum 0.9"), ("two", "12:31", "true")]
    whole = table(rows)
    assert whole == fitted(rows, 100, ["AT"])
    assert "RUN  AT     COMMAND\none  12:30  train.py --lr 0…\ntwo  12:31  true" == fitted(rows, 28, ["AT"])
    assert "RUN  COMMAND\none  train.py --lr 0…\ntwo  true" == fitted(rows, 21, ["AT"])
    assert "RUN  COMMAND\none  train.py --…\ntwo  true" == fitted(rows, 5, ["AT"])
    assert "RUN  COMMAND\none  true" == fitted([rows[0], ("one", "12:30", "true")], 12, ["AT"])


@pytest.mark.parametrize(
    ("kind", "argv", "words"),
    [
        ("script", ["a b.py", "--x"], "'a b.py' --x"),
        ("module", ["pkg.train", "1"], "-m pkg.train 1"),
        ("script", [f"{BUNDLED}check.py"], "check.py"),
    ],
)
def test_a_program_is_told_as_it_was_typed(kind: str, argv: list[str], words: str) -> None:
    assert words == program_in_words(kind, argv)


@pytest.mark.parametrize("name", OUTCOMES)
def test_what_began_the_end_is_always_told(name: str) -> None:
    """The reason where there is one; else the rank that failed, if one did."""
    outcome, size = OUTCOMES[name]
    text = outcome_in_words(outcome, RUN, size)
    assert reason_in_words(outcome.stopped) in text
    if outcome.first is not None:
        assert f"rank {outcome.first.rank}" in text
        assert f"muster logs {RUN} --rank {outcome.first.rank}" in text


@pytest.mark.parametrize(
    "name", [name for name, (outcome, _) in OUTCOMES.items() if outcome.state is not RunState.SUCCEEDED]
)
def test_every_rank_is_told_of_once(name: str) -> None:
    """In a run that did not end well: the first one, and the others folded into a line for each kind of end."""
    outcome = OUTCOMES[name][0]
    told = [line.partition(":")[0].split()[1] for line in others_in_words(outcome)]
    found = sorted(rank for text in told for rank in unfold(text))
    first = set() if outcome.first is None else {outcome.first.rank}
    assert found == sorted({end.rank for end in outcome.ends} - first)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (9_999, "9999 bytes"),
        (10_000, "9.8 KiB"),
        (1 << 20, "1.0 MiB"),
        (999 << 20, "999 MiB"),
        (1 << 30, "1.0 GiB"),
        (80 << 30, "80 GiB"),
        (3 << 50, "3072 TiB"),
    ],
)
def test_sizes_in_words(count: int, expected: str) -> None:
    assert expected == size_in_words(count)


def test_the_phases_of_a_start_follow_one_another() -> None:
    """Each lasts from the end of the one before."""
    assert phases(EVENTS) == [
        ("muster itself, until its agent runs", 0.05),
        ("a look at the Python", 0.05),
        ("python starts", pytest.approx(0.025)),
        ("imports torch and what --preload names", 0.875),
        ("gets ready to fork", 0.125),
        ("ranks are started", 0.125),
        ("first output of a rank", 0.75),
        ("first output of the last rank", 0.5),
    ]


def test_a_restart_is_no_part_of_the_start() -> None:
    """The phases tell of the first attempt, however many followed."""
    assert phases(EVENTS + RESTARTED) == phases(EVENTS)


def test_without_events_there_are_no_phases() -> None:
    assert phases([]) == []
