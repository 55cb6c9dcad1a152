"""What `muster top` makes of events and measurements, and how it fits a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from muster.client.top import _answer
from muster.core.json_checks import Malformed
from muster.core.live_view import (
    Collectives,
    RankState,
    RankTracker,
    RankUsage,
    RankView,
    Steps,
    Tail,
    TopView,
    slowest,
)
from muster.core.progress import Progress
from muster.core.results import RunState
from muster.ui.top_text import KEYS, Row, Style, condition, grid, head, narrowed, neighbour, plain, screen


def tracked(*events: dict[str, Any]) -> RankTracker:
    """A tracker that has seen these events."""
    found = RankTracker()
    for event in ({"event": "do start", "attempt": 0}, *events):
        found.event(event)
    return found


def use(cpu: float = 50.0, **groups: int) -> RankUsage:
    return RankUsage(100, 1 << 30, cpu, groups)


def states(tracker: RankTracker, *nodes: list[int]) -> str:
    return " ".join(str(rank.state) for rank in tracker.ranks(nodes))


# ---- from events -----------------------------------------------------------------------------------------------------


def test_the_state_of_each_rank_follows_from_the_events() -> None:
    tracker = tracked({"event": "pids", "attempt": 0, "pids": {"0": 10, "1": 11, "2": 12}})
    assert "running running running starting" == states(tracker, [0, 1], [2, 3])
    tracker.event({"event": "joined", "rank": 3, "attempt": 0})
    tracker.event({"event": "ended", "rank": 0, "attempt": 0, "code": 0, "signal": None})
    tracker.event({"event": "ended", "rank": 1, "attempt": 0, "code": 3, "signal": None})
    tracker.event({"event": "do signal", "number": 15, "ranks": [0, 1, 2]})
    tracker.event({"event": "ended", "rank": 2, "attempt": 0, "code": None, "signal": 15})
    assert "succeeded failed terminated running" == states(tracker, [0, 1], [2, 3])
    assert ["exit status 0", "exit status 3", "SIGTERM", ""] == [rank.how for rank in tracker.ranks([[0, 1, 2, 3]])]


def test_the_ranks_of_a_lost_node_are_lost() -> None:
    tracker = tracked({"event": "pids", "attempt": 0, "pids": {"0": 10, "1": 11}}, {"event": "lost", "node": 1})
    assert "running lost" == states(tracker, [0], [1])


def test_a_restart_begins_anew() -> None:
    tracker = tracked({"event": "ended", "rank": 0, "attempt": 0, "code": 1})
    tracker.event({"event": "do start", "attempt": 1})
    tracker.event({"event": "ended", "rank": 0, "attempt": 0, "code": 1})
    assert ("starting", 1) == (states(tracker, [0]), tracker.attempt)


@pytest.mark.parametrize(
    "event",
    [{}, {"event": 5}, {"event": "pids"}, {"event": "pids", "pids": {"x": 1}}, {"event": "ended", "rank": None}],
)
def test_a_damaged_event_changes_nothing(event: dict[str, Any]) -> None:
    assert "starting" == states(tracked(event), [0])


# ---- from measurements -----------------------------------------------------------------------------------------------


def test_the_rate_is_that_of_the_busiest_group() -> None:
    tracker = tracked()
    assert tracker.collectives() is None
    tracker.measured(10.0, {0: use(a=100, b=5), 1: use(a=100, b=5)})
    assert Collectives("a", 100, None) == tracker.collectives()
    tracker.measured(12.0, {0: use(a=110, b=65), 1: use(a=110, b=65)})
    assert Collectives("b", 65, 30.0) == tracker.collectives()
    tracker.event({"event": "do start", "attempt": 1})
    assert tracker.collectives() is None


def test_a_rank_is_behind_if_the_others_were_not_just_faster() -> None:
    tracker = tracked()
    tracker.measured(0.0, {0: use(a=1000), 1: use(a=998)})
    assert [0, 0] == [rank.behind for rank in tracker.ranks([[0, 1]])], "the rate is not known yet"
    tracker.measured(1.0, {0: use(a=1100), 1: use(a=1090)})
    assert [0, 0] == [rank.behind for rank in tracker.ranks([[0, 1]])]
    for now in (2.0, 3.0):
        tracker.measured(now, {0: use(a=1101), 1: use(a=1100)})
    assert [0, 1] == [rank.behind for rank in tracker.ranks([[0, 1]])]


def test_ranks_that_deserve_attention_come_first() -> None:
    ranks = [
        RankView(0, 0, RankState.RUNNING, usage=use(10)),
        RankView(1, 0, RankState.RUNNING, usage=use(90)),
        RankView(2, 0, RankState.RUNNING, behind=3),
        RankView(3, 0, RankState.FAILED),
        RankView(4, 0, RankState.RUNNING, silent=True),
    ]
    assert [3, 4, 2, 1, 0] == [rank.rank for rank in slowest(ranks)]


def test_an_answer_has_usage_groups_and_the_last_lines() -> None:
    fields = {"pid": 7, "memory": 10, "cpu": 1.5, "children": 1, "children_memory": 5, "node": 0}
    told = {"tail": {"out": "a\n50%\r99%\r\n\x1b[31mred\x1b[0m", "err": "oops\x1b\n"}, "newer": "err"}
    answer = _answer({"ranks": {"0": {**fields, "groups": {"0": 4}, **told}, "1": told}, "missing": [1]}, 0)
    assert {0: RankUsage(7, 15, 1.5, {"0": 4})} == answer.ranks and (1,) == answer.silent
    assert Tail(0, ("a", "99%", "red", "oops\\x1b")) == answer.tail
    assert _answer({"ranks": {"0": fields}}, 0).tail is None


@pytest.mark.parametrize("ranks", [None, [], {"x": {}}, {"0": 5}, {"0": {"pid": "7"}}, {"0": {"tail": 5}}])
def test_a_malformed_answer_is_refused(ranks: Any) -> None:
    with pytest.raises(Malformed):
        _answer({"ranks": ranks}, 0)


# ---- on the screen ---------------------------------------------------------------------------------------------------


def view(nodes: int, each: int, state: RunState = RunState.RUNNING, **more: Any) -> TopView:
    """A run in which all ranks run; `odd` has other ranks."""
    odd = {rank.rank: rank for rank in more.pop("odd", ())}
    ranks = [RankView(rank, rank // each, RankState.RUNNING, usage=use()) for rank in range(nodes * each)]
    hosts = tuple(f"n{number + 1}" for number in range(nodes))
    run_id = "20261127-155127-f3cd922af4e84-train"
    return TopView(run_id, "", state, "", 65.0, hosts, tuple(odd.get(rank.rank, rank) for rank in ranks), **more)


def letters(rows: list[Row]) -> list[str]:
    return ["".join(piece.text for piece in row).rstrip() for row in rows]


def test_a_small_grid_has_a_row_for_each_host() -> None:
    failed = RankView(5, 1, RankState.FAILED)
    assert ["n1 RRRR", "n2 RFRR", "n3 RRRR"] == letters(grid(view(3, 4, odd=[failed]), 80, 8, 0))


def test_many_hosts_share_rows() -> None:
    rows = letters(grid(view(16, 8), 80, 8, 0))
    assert 8 == len(rows) and "n1  RRRRRRRR  n2  RRRRRRRR" == rows[0]


def test_of_1024_ranks_each_letter_is_a_host() -> None:
    rows = letters(grid(view(128, 8, odd=[RankView(1000, 125, RankState.FAILED)]), 80, 8, 0))
    assert ["  n1 " + "R" * 70, " n71 " + "R" * 55 + "FRR"] == rows


def test_1024_ranks_of_one_host_fit_too() -> None:
    rows = grid(view(1, 1024, odd=[RankView(1000, 0, RankState.LOST)]), 80, 8, 3)
    assert 8 >= len(rows) and 512 == sum(len(row) - 1 for row in rows)
    assert 1 == sum(piece.text == "L" for row in rows for piece in row)
    assert [Style.CHOSEN] == [piece.style for row in rows for piece in row if piece.style is Style.CHOSEN]


@pytest.mark.parametrize(
    ("nodes", "each"), [(1, 1), (1, 8), (2, 4), (1, 9), (3, 3), (16, 8), (128, 8), (1, 1024), (1024, 1)]
)
@pytest.mark.parametrize("size", [(80, 24), (40, 12), (200, 60), (20, 5), (1, 1)])
def test_every_run_fits_the_terminal(nodes: int, each: int, size: tuple[int, int]) -> None:
    width, height = size
    tail = Tail(0, tuple(f"line {number}" for number in range(40)))
    for state in (RunState.RUNNING, RunState.UNKNOWN, RunState.PENDING):
        rows = screen(view(nodes, each, state, tail=tail, problem="no answer", silent=("n1",)), width, height, 0)
        assert len(rows) <= height
        assert all(len(line) <= width for line in plain(rows, width).splitlines())


def test_on_80_by_24_there_is_room_for_everything() -> None:
    tail = Tail(0, tuple(f"line {number}" for number in range(40)))
    for nodes, each in ((1, 4), (3, 8), (128, 8), (1, 1024)):
        text = plain(screen(view(nodes, each, tail=tail), 80, 23, 0), 80)
        assert "RANK HOST" in text and "last lines of rank 0 on n1" in text and "line 39" in text
        assert 3 <= text.count("line ")
    assert len(KEYS) <= 80


def test_the_head_says_what_is_the_matter() -> None:
    text = plain(head(view(2, 2, collectives=Collectives("0", 1240, 85.25)), 80), 80)
    assert "20261127-155127-f3cd922af4e84-train  running 1m 5s\n" in text
    assert "4 ranks on 2 hosts: 4 running (R)\ncollectives: 1,240 called, 85.2/s" in text
    text = plain(head(view(2, 2, problem="no answer from n1", age=12.0), 100), 100)
    assert "no answer from n1; trying again; the ranks below are 12s old" in text
    pending = TopView("x", "night", RunState.PENDING, "Slurm job 7 is pending: Resources", 3.0)
    assert "x (night)  pending 3.0s\nSlurm job 7 is pending: Resources" == plain(head(pending, 80), 80)


def test_a_long_reason_is_wrapped() -> None:
    why = "no answer from its controller on n1: ssh: connect to host n1 port 22: Connection timed out"
    lines = plain(head(view(2, 2, RunState.UNKNOWN)._replace(why=why), 80), 80).splitlines()
    assert lines[-2].startswith("no answer") and "timed out; trying again; the ranks below are" in lines[-1]


def test_text_of_others_cannot_control_the_terminal() -> None:
    run = view(1, 1, RunState.UNKNOWN)._replace(why="\x1b[2J", name="\x1b[31m", hosts=("\x1b]0;x",))
    assert "\x1b" not in plain(screen(run, 80, 24, 0), 200)


def test_a_rank_without_cpu_time_is_idle() -> None:
    assert condition(RankView(0, 0, RankState.RUNNING, usage=use(0.0))) != condition(
        RankView(0, 0, RankState.RUNNING, usage=use(60.0))
    )


def test_keys_select_ranks() -> None:
    run = view(3, 4, odd=[RankView(7, 1, RankState.FAILED), RankView(2, 0, RankState.RUNNING, behind=1)])
    presses = [
        ("right", 0, 1),
        ("left", 0, 11),
        ("down", 1, 5),
        ("up", 1, 9),
        ("next", 0, 2),
        ("next", 2, 7),
        ("next", 7, 2),
    ]
    assert [after for *_, after in presses] == [neighbour(run, before, key) for key, before, _ in presses]
    assert 0 == neighbour(TopView("x", "", RunState.PENDING, "", 0.0), 0, "right")
    assert 3 == neighbour(view(1, 7), 0, "down")


def test_a_long_path_of_a_stack_is_shortened_from_its_front() -> None:
    line = '  File "/tmp/pytest-of-root/pytest-1234/popen-gw3/test_keys_show_stacks_0/held.py", line 2 in <module>'
    short = narrowed(line, 80)
    assert 80 == len(short)
    assert short.startswith('  File "…') and short.endswith('/test_keys_show_stacks_0/held.py", line 2 in <module>')
    assert line == narrowed(line, len(line))
    assert '  File "…/held.py", line 2 in <module>' == narrowed(line, 10), "the name stays, whatever the width"
    assert "x" * 100 == narrowed("x" * 100, 80)
    assert '  File "held.py", line 2 in ' + "f" * 80 == narrowed('  File "held.py", line 2 in ' + "f" * 80, 80)


# ---- steps that ranks report -----------------------------------------------------------------------------------------


def at(step: int, total: int | None = 1000) -> RankUsage:
    return RankUsage(100, 1 << 30, 50.0, {}, Progress(step, total))


def test_steps_are_those_that_all_ranks_have_finished_and_a_late_rank_is_behind() -> None:
    tracker = tracked({"event": "pids", "attempt": 0, "pids": {"0": 10, "1": 11, "2": 12}})
    assert tracker.steps() is None
    tracker.measured(10.0, {0: at(100), 1: at(100), 2: at(100)})
    assert Steps(Progress(100, 1000)) == tracker.steps()
    tracker.measured(20.0, {0: at(140), 1: at(121), 2: at(120)})
    assert Steps(Progress(120, 1000), 2.0) == tracker.steps()
    ranks = tracker.ranks([[0, 1, 2]])
    assert [0, 19, 20] == [rank.steps_behind for rank in ranks]
    view = TopView("r", "", RunState.RUNNING, "", 5.0, ("n1",), ranks, steps=tracker.steps())
    text = plain(screen(view, 80, 20, 0), 80)
    assert "step 120 of 1,000 (12%), 2/s, 7m 20s left" in text, text
    assert "120/1000  behind by 20 steps" in text, text
    tracker.measured(30.0, {0: at(160), 1: at(160), 2: at(159)})
    assert [0, 0, 0] == [rank.steps_behind for rank in tracker.ranks([[0, 1, 2]])], "reports are up to a second apart"


def test_the_rate_of_steps_begins_anew_with_a_restart() -> None:
    tracker = tracked()
    tracker.measured(10.0, {0: at(500, None)})
    tracker.measured(20.0, {0: at(400, None)})  # from a checkpoint
    found = tracker.steps()
    assert found is not None and found.rate is None and found.left is None
