"""Records are read back field by field: whatever a file contains, the result is a record or an error message."""

from __future__ import annotations

import json
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
from changing import set_to

from muster.controller.controller import fields_of
from muster.core.events import NAMES, CleanedUp, RankExited, StartFailed, StopRequested, StoreDied, event_from_json
from muster.core.json_checks import Malformed
from muster.core.json_records import outcome_from_json, plan_from_json
from muster.core.layout import layout
from muster.core.model import Host, Job, Program, as_json
from muster.core.results import (
    Failure,
    FailureKind,
    Leftover,
    LostNode,
    Problem,
    ProblemKind,
    RankExit,
    RunResult,
    RunState,
    StopKind,
    StopReason,
    Unlogged,
)
from muster.launchers import make_plan
from muster.ui.reason_text import problem_in_words
from muster.ui.text import outcome_as_json, outcome_in_words

END = RankExit(0, 0, 1.5, None, 9, failure=Failure(FailureKind.EXCEPTION, 1.0, "ValueError: x", ("a", "b")))
ENDS = (END, END._replace(rank=1, code=0, signal=None, failure=None, by_launcher=True, late=True))
STOPPED = StopReason(
    StopKind.PROBLEM, signal=9, problems=(Problem(ProblemKind.VERSIONS, ("n1", "n2"), values=(("n1", "2.3"),)),)
)
OUTCOME = RunResult(
    *(RunState.FAILED, 1, 2.5, 1, STOPPED, END, ENDS),
    leftovers=(Leftover("sleep 99", 71, "S", killed=True),),
    lost=(LostNode(1, "it is gone"),),
    unlogged=(Unlogged(0, 1, "out", 7, "disk full"),),
)
JOB = Job(Program("script", ("train.py", "1")), "exec", "/bin/python", "why", "/", env={"A": "b"}, ssh=("ssh", "-v"))
NODES = layout([(Host("n1", gpus=("0", "1"), cpus=((0, 1), (2,))), 1), (Host("n2", threads=None), 1)])
PLAN = make_plan(JOB._replace(launcher="mpirun", transport="ssh"), NODES, "20261121-120000-ab12-train")

NASTY: tuple[Any, ...] = (None, True, -1, 1.5, 10**30, "x", "", "a\0b", [], [[]], {}, {"a": 1}, float("nan"), [None])
"""Replacement for any field."""


def paths(data: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path to each value in a JSON document."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    found = [way] if way else []
    for key, value in items:
        found += paths(value, (*way, key))
    return found


@pytest.mark.parametrize(("record", "read"), [(OUTCOME, outcome_from_json), (PLAN, plan_from_json)])
def test_any_value_in_any_place_gives_a_record_or_malformed(record: Any, read: Any) -> None:
    data = json.loads(json.dumps(outcome_as_json(record) if record is OUTCOME else as_json(record)))
    assert record == read(data)
    for way in paths(data):
        right = reduce(getitem, way, data)
        for value in (*NASTY, right):
            set_to(*way, value)(data)
            try:
                found = read(data)
            except Malformed:
                continue
            assert type(record) is type(found)
            json.dumps(as_json(found))
    for value in NASTY:
        with pytest.raises(Malformed):
            read(value)


@pytest.mark.parametrize("launcher", ["fork", "torchrun", "mpirun"])
def test_a_plan_of_an_older_version_is_read(launcher: str) -> None:
    """Of version 0.1, in which commands of ranks had the environment, and late values were words with a `$`."""
    data = json.loads((Path(__file__).parent / "older" / "plans.json").read_text())[launcher]
    plan = plan_from_json(data)
    assert (("n01", "n02"), 2, launcher) == (plan.hosts, plan.world_size, plan.job.launcher)
    assert [item["argv"] for item in data["commands"]] == [list(command.argv) for command in plan.commands]
    assert [len(item["files"]) for item in data["commands"]] == [len(command.files) for command in plan.commands]
    assert (launcher == "fork") == (plan.rank_command is None)
    assert plan == plan_from_json(json.loads(json.dumps(as_json(plan))))


def test_fields_of_a_newer_muster_are_left_out() -> None:
    data = {**as_json(OUTCOME), "weather": "fine"}
    assert OUTCOME == outcome_from_json(json.loads(json.dumps(data)))


def test_reasons_in_words_of_an_older_muster_are_still_read() -> None:
    """Why a run was ended, what was left of it, and events: none of them was structured once."""
    left = ["ended: sleep 99 (pid 71)", "still alive: dd (pid 8)", "not seen to end: n2 is gone"]
    reason = "there is no torch in python\nhint: install it there"
    old = {"state": "broken", "code": 125, "duration": 1.0, "reason": reason, "left": left}
    outcome = outcome_from_json(old)
    assert RunState.ERROR is outcome.state
    assert outcome.leftovers == (Leftover("sleep 99 (pid 71)", killed=True), Leftover("dd (pid 8)"))
    assert outcome.lost == (LostNode(0, "n2 is gone"),)
    assert reason == outcome_as_json(outcome)["reason"]
    words = [
        "error: there is no torch in python",
        "hint: install it there",
        "orphaned process, killed by muster: sleep 99 (pid 71)",
        "orphaned process, still running: dd (pid 8)",
        "exit of its ranks not observed: n2 is gone",
    ]
    assert words == outcome_in_words(outcome, "x", 1).splitlines()
    event = {"event": "swept", "t": 1.0, "node": 0, "ended": [], "left": ["dd (pid 8)"]}
    assert CleanedUp(1.0, 0, (), (Leftover("dd (pid 8)"),)) == event_from_json(event)
    assert StoreDied(1.0) == event_from_json({"event": "storeended", "t": 1.0, "how": "exit status 1"})
    unable = event_from_json({"event": "unable", "t": 1.0, "node": 0, "why": reason})
    assert "there is no torch in python" == problem_in_words(unable.problems[0])


def test_events_are_read_back_as_they_were_written() -> None:
    """A restarted supervisor uses them."""
    failure = Failure(FailureKind.PEER_LOST, 1.0, "x", ("a",))
    for event in (
        StartFailed(1.0, 0, STOPPED.problems),
        CleanedUp(1.0, 0, OUTCOME.leftovers, (Leftover("dd", 8, "D", gpu=True),)),
        StoreDied(1.0, None, 9, "/x/store.log"),
        RankExited(1.0, 3, 0, 1, None, failure),
        StopRequested(1.0, 1, gone_for=30.0),
    ):
        written = json.dumps({"event": NAMES[type(event)], **fields_of(event)})
        assert event == event_from_json(json.loads(written))
