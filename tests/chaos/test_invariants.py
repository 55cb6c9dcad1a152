"""Each invariant sees what it is there for."""

from __future__ import annotations

from typing import Any

import pytest
from invariants import INVARIANTS, Seen, agrees, as_documented, ends, no_line_lost, nothing_left
from population import Process, Things, new
from scenarios import Ending, Moment, Place, Scenario

SCENARIO = Scenario(1, Place.LOCAL, "exec", "plain", "rank killed", Moment.WHILE, Ending.WORK, 1, 0.0, 0.5, 0)


def seen(**more: Any) -> Seen:
    outcome = {"state": "failed", "code": 137, "root_cause": {"rank": 1}}
    ours: dict[str, Any] = {
        "scenario": SCENARIO,
        "struck": "SIGKILL to the rank",
        "seconds": 1.0,
        "bound": 90.0,
        "over": True,
        "code": 137,
        "began": True,
        "outcome": outcome,
        "show": {"state": "failed"},
        "waited": 137,
        "left": [],
        "said": "[1] line 1 h.5 0\n[1] line 1 h.5 1\nrank 1 failed first: killed by SIGKILL\n",
        "report": "",
        "own": {(1, "h.5"): [0, 1]},
        "logs": {1: ["line 1 h.5 0", "line 1 h.5 1"]},
    }
    return Seen(**{**ours, **more})


def test_a_good_run_violates_nothing() -> None:
    assert [] == [found for check in INVARIANTS for found in check(seen())]
    between = seen(own={(1, "h.5"): [0]})  # killed between both writes
    assert [] == no_line_lost(between)


@pytest.mark.parametrize(
    ("check", "change", "words"),
    [
        (ends, {"over": False}, "had not ended"),
        (agrees, {"code": 0}, "the terminal exits with 0"),
        (agrees, {"waited": 1}, "`muster wait` exits with 1"),
        (agrees, {"show": {"state": "running"}}, "`muster show` running"),
        (agrees, {"outcome": None, "code": None, "waited": 125}, "there is no outcome.json, and `muster show` says"),
        (nothing_left, {"left": ["n1: port 5 listens"]}, "left: n1: port 5 listens"),
        (no_line_lost, {"own": {(1, "h.5"): [0, 1, 2]}}, "wrote 3 lines, and its log has 2"),
        (no_line_lost, {"logs": {1: ["line 1 h.5 0"] * 2 + ["line 1 h.5 1"]}}, "its log has 3, where line 1 is 0"),
        (no_line_lost, {"said": "[1] line 1 h.5 0\n"}, "the terminal shows 1"),
        (no_line_lost, {"said": "[1] line 1 h.5 0\n" * 2}, "the terminal shows 2, where line 1 is 0"),
        (no_line_lost, {"own": {}}, "lines of processes that wrote none"),
        (as_documented, {"outcome": {"state": "succeeded", "code": 0}}, "it is succeeded with exit code 0"),
        (as_documented, {"said": "it failed"}, "the report does not say"),
        (
            as_documented,
            {"outcome": {"state": "failed", "code": 137, "root_cause": {"rank": 0}}},
            "root cause is rank 0",
        ),
        (as_documented, {"said": "rank 1: SIGKILL\nTraceback (most recent call last):\n"}, "a traceback"),
    ],
)
def test_a_violation_is_told(check: Any, change: dict[str, Any], words: str) -> None:
    assert any(words in found for found in check(seen(**change)))


def test_what_is_new_on_hosts_is_told() -> None:
    def process(pid: int, program: str) -> Process:
        return Process("n1", pid, "7", pid, 1, "S", program, f"/usr/bin/{program}", False, program)

    nothing = Things({}, frozenset(), frozenset(), frozenset())
    assert [] == new(nothing, Things({(4, "7"): process(4, "sshd")}, frozenset(), frozenset(), frozenset()))
    found = new(
        nothing._replace(ports=frozenset({("n1", 22)})),
        Things(
            {(5, "7"): process(5, "sleep")},
            frozenset({("n1", 22), ("n2", 80)}),
            frozenset({("n1", "@muster/0/x")}),
            frozenset({("n1", "/tmp/muster-1"), ("n1", "/tmp/torchelastic_1")}),
        ),
    )
    assert [
        "n1: process 5 (S) /usr/bin/sleep",
        "n2: port 80 listens",
        "n1: local socket @muster/0/x",
        "n1: file /tmp/muster-1",
    ] == found
