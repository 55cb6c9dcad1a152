"""Dumps of torch's flight recorder are read: recorded ones of torch 2.13 with gloo, and malformed ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from muster.agent.flight_recorder import parse, parse_times, parse_waits, progress
from muster.agent.rank_server import body_of
from muster.core.inspection import CollectiveRecord, GroupState

RECORDED = Path(__file__).parent / "recorded"


def dump(rank: int) -> bytes:
    """Rank 0 waits in all_reduce #4, after three of them and a send; rank 1 has not entered it."""
    return (RECORDED / f"gloo_rank_{rank}.json").read_bytes()


def test_a_rank_that_waits() -> None:
    found = parse(dump(0))
    assert found is not None
    collectives, groups = found
    assert [(1, True), (2, True), (3, True), (4, False)] == [(each.seq, each.done) for each in collectives]
    last = CollectiveRecord("0", 4, "all_reduce", ((8,),), ("Float",), 1795804026.939526)
    assert last == collectives[-1]
    # pg_status says 5, because it counts the send
    assert (GroupState("0", "default_pg", 4, 3),) == groups


def test_a_rank_that_did_not_come() -> None:
    found = parse(dump(1))
    assert found is not None
    assert (3, (GroupState("0", "default_pg", 3, 3),)) == (len(found[0]), found[1])


def test_only_the_last_ones_are_kept() -> None:
    found = parse(dump(0), last=2)
    assert found is not None and [3, 4] == [each.seq for each in found[0]]
    assert 4 == found[1][0].enqueued


def test_progress_is_told_without_parsing() -> None:
    """Record 3 is pending in rank 0; nothing is in rank 1, whose last record is 2."""
    assert ((39999, True), (30000, False)) == (progress(dump(0)), progress(dump(1)))
    assert None is progress(b"{}")
    assert (10000, False) == progress(b'{"entries":[]}')


def test_when_collectives_were_called() -> None:
    times = parse_times(dump(1), 1)
    assert times is not None
    (group,) = times
    assert (1, "0", (1, 2, 3)) == (group.rank, group.group, group.seqs)
    assert sorted(group.created) == list(group.created) and 1795804026 < group.created[0] < 1795804027


def changed(**fields: Any) -> bytes:
    """The dump of rank 0 with other values."""
    return json.dumps({**json.loads(dump(0)), **fields}).encode()


def test_nccl_has_states_and_groups() -> None:
    """By torch's source: there was no GPU to record one."""
    entry = {**json.loads(dump(0))["entries"][0], "profiling_name": "nccl:all_reduce", "retired": False}
    done = {**entry, "state": "completed"}
    sent = {**entry, "profiling_name": "nccl:send 0->1", "is_p2p": True, "p2p_seq_id": 7}
    data = changed(
        entries=[done, sent, {**entry, "collective_seq_id": 2, "state": "started"}],
        pg_config={
            "0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1]"},
            "5": {"name": "5", "desc": "", "ranks": ""},
        },
        pg_status={"0": {"last_enqueued_collective": 2}, "5": {"last_enqueued_collective": -1}},
    )
    found = parse(data)
    assert found is not None
    assert [(1, True, False), (7, False, True), (2, False, False)] == [
        (each.seq, each.done, each.p2p) for each in found[0]
    ]
    assert "send 0->1" == found[0][1].op
    assert (GroupState("0", "default_pg", 2, 1, (0, 1)), GroupState("5")) == found[1]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b'"x"',
        b"\xff",
        changed(entries=[1]),
        changed(entries=[{}]),
        changed(entries=3),
        changed(pg_status=[1]),
        changed(pg_status={"0": 1}),
        b"[" * 100000,
    ],
)
def test_what_is_no_dump(data: bytes) -> None:
    assert parse(data) is None or () == parse(data)[0]  # type: ignore[index]
    parse_times(data, 0)
    parse_waits(data)


def test_what_torch_waits_in() -> None:
    idle = {"active_count": 0, "total_calls": 4}
    data = {"pytorch.wait_counter.TCPStore__wait": {"active_count": 1}, "pytorch.wait_counter.TCPStore__get": idle}
    assert ("TCPStore__wait",) == parse_waits(json.dumps(data).encode())


HEAD = b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1, max=30\r\nContent-Length: 4\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "ended", "body"),
    [
        (HEAD + b"{}{}", False, b"{}{}"),
        (HEAD + b"{}", False, None),
        (HEAD + b"{}", True, None),
        (HEAD[:30], False, None),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", False, None),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", True, b"{}"),
        (HEAD.replace(b"200 OK", b"404 Not Found") + b"{}{}", True, None),
        (b"\r\n\r\n", True, None),
    ],
)
def test_answers_by_http(answer: bytes, ended: bool, body: bytes | None) -> None:
    assert body == body_of(answer, ended)
