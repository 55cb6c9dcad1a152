"""Data that cannot be written to a log is counted, reported in the log once there is space, and part of the result."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from muster.agent import log_overflow as module
from muster.agent.log_overflow import Loss, Overflow, may_fill_up
from muster.core.events import LogIncomplete
from muster.core.json_records import outcome_from_json
from muster.core.model import as_json
from muster.core.results import RunResult, RunState, Unlogged
from muster.core.supervisor import Supervisor, SupervisorConfig
from muster.rundir.journal import Journal
from muster.rundir.run import Run
from muster.ui.text import outcome_in_words, unlogged_in_words

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Room:
    """A fake `os.write` for logs, with the number of bytes that the disk still accepts."""

    def __init__(self, left: int):
        self.left = left
        self._write = os.write

    def __call__(self, fd: int, data: bytes) -> int:
        if not self.left and data:
            raise FULL
        written = self._write(fd, bytes(data[: self.left]))
        self.left -= written
        return written


class Clock:
    """A clock that changes only when it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lost_output_is_counted_and_marked_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, room, log = Clock(), Room(1 << 30), tmp_path / "attempt_3" / "rank_00000.out"
    overflow = Overflow("rank 0's stdout", clock)
    overflow.lead_to(str(log))
    with open(overflow.pipe, "wb", buffering=0) as rank:
        monkeypatch.setattr(module.os, "write", room)
        assert overflow.take() is None
        rank.write(b"one\n")
        assert (overflow.take(), overflow.loss) == ((4, b""), Loss())
        room.left = 3
        rank.write(b"two, and more\n")
        assert overflow.take() == (14, b", and more\n")
        rank.write(b"three\n")
        room.left = 5  # too little for the line about the loss, of which nothing may remain
        clock.now = 0.1
        assert overflow.take() == (6, b"three\n")
        clock.now = 1.0
        rank.write(b"four\n")
        assert overflow.take() == (5, b"four\n")
        assert overflow.loss == Loss(22, "No space left on device", True)
        assert (log.read_bytes(), overflow.recent) == (b"one\ntwo", b", and more\nthree\nfour\n")
        room.left, clock.now = 1 << 30, 2.0
        rank.write(b"five\n")
        assert overflow.take() == (5, b"")
        marked = (
            b"one\ntwo\nmuster: 22 bytes of rank 0's stdout are missing from this log: No space left on device\nfive\n"
        )
        assert (log.read_bytes(), overflow.loss.going_on, overflow.recent) == (marked, False, b"")
    overflow.close()


def test_a_disk_with_little_room_may_fill_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROOM", 0)
    assert [may_fill_up(str(tmp_path)), may_fill_up(str(tmp_path / "gone"))] == [False, True]
    monkeypatch.setattr(module, "ROOM", 1 << 80)
    assert may_fill_up(str(tmp_path))


def test_the_outcome_says_what_is_missing(tmp_path: Path) -> None:
    supervisor = Supervisor(SupervisorConfig(ranks=(0, 1), nodes=1, node_of=(0, 0), grace=1.0))
    for rank, stream, missing in ((1, "out", 100), (0, "err", 7), (1, "out", 20_000)):
        assert supervisor.handle(LogIncomplete(1.0, 0, 0, rank, stream, missing, "No space left on device")) == []
    lacks = tuple(supervisor._unlogged[key] for key in sorted(supervisor._unlogged))
    assert lacks == (Unlogged(0, 0, "err", 7, lacks[0].why), Unlogged(0, 1, "out", 20_000, lacks[0].why))
    outcome = RunResult(RunState.SUCCEEDED, 0, 2.0, unlogged=lacks)
    assert outcome_from_json(json.loads(json.dumps(as_json(outcome)))) == outcome
    told = "ranks 0-1: 20 KiB of output missing from their logs: No space left on device"
    assert outcome_in_words(outcome, "RUN", 2).splitlines()[1:] == [told]
    assert unlogged_in_words(lacks[:1]) == ["rank 0: 7 bytes of output missing from its log: No space left on device"]


def test_the_outcome_has_room_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    run.reserve(2)

    def full(name: str, data: object) -> None:
        raise FULL

    monkeypatch.setattr(run, "write", full)
    run.write_outcome(as_json(RunResult(RunState.SUCCEEDED, 0, 2.0)))
    assert (run.outcome, os.listdir(tmp_path)) == (RunResult(RunState.SUCCEEDED, 0, 2.0), ["outcome.json"])
    later = RunResult(RunState.SUCCEEDED, 0, 2.0, unlogged=(Unlogged(0, 1, "out", 7, "No space left on device"),))
    run.write_outcome(as_json(later))
    assert run.outcome == later
    with pytest.raises(OSError, match="No space left"):
        run.write_outcome({"reason": "x" * (1 << 20)})


def test_events_wait_for_room_and_none_is_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room, journal = Room(6), Journal(tmp_path / "events")
    monkeypatch.setattr(os, "write", room)
    journal.append("one\n")
    for line in ("two\n", "three\n"):
        with pytest.raises(OSError, match="No space left"):
            journal.append(line)
    room.left = 100
    journal.append("four\n")
    room.left = 0
    with pytest.raises(OSError, match="No space left"):
        journal.append("five\n")
    assert journal.close() == 1
    assert (tmp_path / "events").read_text() == "one\ntwo\nthree\nfour\n"
