"""Verdicts on what ranks that hang were seen to do: recordings of real runs, made by `hangs/record.py`."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import NamedTuple

import pytest

from muster.core.inspection import Snapshot, SnapshotReason
from muster.core.json_inspection import snapshot_from_json
from muster.core.json_records import failure_from_json
from muster.core.results import RankExit
from muster.core.verdict import Verdict, VerdictKind, verdict_as_json
from muster.diagnostics.hangs import verdict
from muster.ui.hang_text import evidence_in_words, verdict_in_words
from muster.ui.stacks_text import stacks_in_words

FOLDER = Path(__file__).parent / "hangs"
RANKS = 4


class Expected(NamedTuple):
    """What a verdict has to say."""

    kind: VerdictKind
    odd: tuple[int, ...]
    words: tuple[str, ...]


K = VerdictKind
EXPECTED = {
    # a rank that has not come, and what it does instead
    "asleep": Expected(K.MISSING, (2,), ("has not entered all_reduce #7 (float32 [16], hang.py:35)", "sleeping")),
    "python_loop": Expected(K.MISSING, (1,), ("Rank 1 is in spin (hang.py:68), computing",)),
    "holds_gil": Expected(K.MISSING, (3,), ("computing", "in match of re/__init__.py")),
    "native": Expected(K.MISSING, (2,), ("Rank 2 is in native (hang.py:83), computing",)),
    "fifo": Expected(K.MISSING, (2,), ("blocked in openat() of a FIFO /scratch/batches.fifo",)),
    "pipe": Expected(K.MISSING, (0,), ("blocked in read() of a pipe",)),
    "server": Expected(K.MISSING, (1,), ("blocked in recvfrom() of a socket 127.0.0.1:",)),
    "child": Expected(K.MISSING, (3,), ("waiting for another process", "(sleep) is sleeping")),
    "file_lock": Expected(K.MISSING, (1,), ("waiting for the lock of /scratch/index.lock, held by process",)),
    "dead_producer": Expected(K.MISSING, (1,), ("waiting on a queue", "no thread of the script is left")),
    "two_locks": Expected(K.MISSING, (1,), ("for a lock while another of its threads is in writer (hang.py:158)",)),
    "joins_thread": Expected(K.MISSING, (2,), ("waiting for another of its threads",)),
    "loader": Expected(
        K.MISSING, (3,), ("waiting for a batch of its DataLoader", "DataLoader workers 12680, 12692: each is sleeping")
    ),
    "stopped": Expected(K.MISSING, (3,), ("Rank 3 is stopped by a signal (SIGSTOP).",)),
    "monitored": Expected(K.MISSING, (2,), ("has not entered monitored_barrier", "sleeping")),
    "objects": Expected(K.MISSING, (0,), ("sleeping",)),
    "receives_nothing": Expected(K.MISSING, (0,), ("rank 0 has not entered", "sleeping")),
    "in_backward": Expected(K.MISSING, (2,), ("has not entered all_reduce #", "hang.py:", "sleeping")),
    # ranks that have exited
    "left": Expected(K.EXITED, (2,), ("rank 2 exited with status 0", "wait for it in TCPStore.wait (hang.py:216)")),
    # other calls
    "uneven": Expected(K.UNEVEN, (3,), ("rank 3 is in barrier #8 (hang.py:234 in save), after the loop",)),
    "other_branch": Expected(K.MISMATCH, (1,), ("all_gather #7", "broadcast #7")),
    "two_and_two": Expected(K.MISMATCH, (), ("ranks 0-1 are in barrier #7", "ranks 2-3 are in all_gather #7")),
    "one_too_many": Expected(K.EXTRA_CALL, (2,), ("one call too many", "all_reduce #7", "barrier #7")),
    "key_of_nobody": Expected(
        K.MISMATCH, (2,), ("rank 2 is in TCPStore.get (hang.py:222 in key_of_nobody), but", "all_reduce #7")
    ),
    "new_group_alone": Expected(
        K.MISMATCH, (1,), ("rank 1 is in new_group (hang.py:277 in new_group_alone), but", "all_reduce #7")
    ),
    "groups_in_circle": Expected(K.CYCLE, (3,), ("process group 2", "process group 1")),
    "pairs_in_circle": Expected(K.CYCLE, (), ("rank 0 in barrier #1 of process group 1",)),
    "file_lock_in_circle": Expected(K.CYCLE, (0,), ("rank 0 in barrier #7", "the lock of /scratch/index.lock")),
    # the start
    "never_joins": Expected(K.NOT_JOINED, (1,), ("rank 1 has not called init_process_group", "sleeping")),
    "importing": Expected(K.NOT_JOINED, (3,), ("importing telemetry", "telemetry.py:3")),
    "wrong_address": Expected(K.NOT_CONNECTED, (3,), ("MASTER_ADDR", "The store of the others is at 127.0.0.1:")),
    "wrong_port": Expected(K.NOT_CONNECTED, (1,), ("MASTER_PORT",)),
    "wrong_size": Expected(K.NOT_CONNECTED, (1,), ("WORLD_SIZE",)),
    "same_rank": Expected(K.NOT_CONNECTED, (), ("all ranks are in init_process_group",)),
    # the same in programs that train
    "train_prefetch": Expected(K.MISSING, (1,), ("Rank 1 is in next_batch (train.py:37), waiting on a queue",)),
    "train_master_addr": Expected(K.NOT_CONNECTED, (3,), ("MASTER_ADDR",)),
    "train_world_size": Expected(K.NOT_CONNECTED, (1,), ("WORLD_SIZE",)),
    "train_uneven_batches": Expected(K.UNEVEN, (3,), ("in save_checkpoint", "fewer batches")),
    "train_leaves_early": Expected(K.EXITED, (2,), ("rank 2 exited with status 0", "TCPStore.wait")),
    "train_lock_deadlock": Expected(K.MISSING, (1,), ("in flush_cache", "is in writer (train.py:25)")),
    "train_regex": Expected(K.MISSING, (3,), ("in clean_text", "in match of re/__init__.py")),
    "train_matmul": Expected(K.MISSING, (2,), ("in power_iteration", "computing")),
    "train_fifo": Expected(K.MISSING, (2,), ("in read_pipe", "FIFO /scratch/batches.fifo")),
    "train_import": Expected(K.NOT_JOINED, (3,), ("telemetry.py:7", "blocked in recvfrom() of a socket")),
    "train_finally": Expected(K.MISMATCH, (2,), ("in finish), but ranks 0-1,3 are in all_reduce",)),
    "train_stopped": Expected(K.MISSING, (3,), ("stopped by a signal (SIGSTOP)",)),
    # no hang
    "goes_on": Expected(K.PROGRESS, (), ("the ranks make progress",)),
    "slow_rank": Expected(K.PROGRESS, (), ("Rank 3 is behind: in read_shard",)),
    "all_asleep": Expected(K.NO_WAIT, (), ("no rank waits for another",)),
}


def recorded(name: str) -> tuple[Snapshot, Verdict]:
    """Return a recording, and the verdict on it."""
    data = json.loads((FOLDER / f"{name}.json").read_text())
    snapshot = snapshot_from_json(data["snapshot"])
    ends = []
    for end in data["ends"]:
        failure = failure_from_json(end["failure"]) if end.get("failure") else None
        ends.append(RankExit(end["rank"], 0, end["t"], end.get("code"), end.get("signal"), failure=failure))
    return snapshot, verdict(snapshot, ends, RANKS, data["began"])


def test_each_recording_has_an_expectation() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_verdict_on_a_recording(name: str) -> None:
    expected = EXPECTED[name]
    _, found = recorded(name)
    words = verdict_in_words(found)
    assert (found.kind, found.odd) == (expected.kind, expected.odd), words
    for word in expected.words:
        assert word in words
    told = verdict_as_json(found)
    assert json.loads(json.dumps(told)) == told
    ranks = sorted(rank for situation in found.situations for rank in situation.ranks)
    assert list(range(RANKS)) == ranks
    assert len(evidence_in_words(found)) == len(found.situations)


@pytest.mark.parametrize("name", [name for name in EXPECTED if EXPECTED[name].kind not in (K.PROGRESS, K.NO_WAIT)])
def test_without_a_flight_recorder_no_other_rank_is_blamed(name: str) -> None:
    """The same with an older torch: from the stacks, and what the kernel knows."""
    snapshot, with_recorder = recorded(name)
    bare = tuple(one._replace(recorder=False, collectives=(), groups=(), waits=()) for one in snapshot.inspections)
    data = json.loads((FOLDER / f"{name}.json").read_text())
    ends = [RankExit(end["rank"], 0, end["t"], end.get("code"), end.get("signal")) for end in data["ends"]]
    found = verdict(snapshot._replace(inspections=bare), ends, RANKS)
    assert set(found.odd) <= set(with_recorder.odd), verdict_in_words(found)


@pytest.mark.parametrize("name", [name for name in EXPECTED if EXPECTED[name].kind not in (K.PROGRESS, K.NO_WAIT)])
def test_if_a_rank_does_not_answer_no_other_is_blamed(name: str) -> None:
    """As on a busy machine: only the kernel tells something about it."""
    snapshot, complete = recorded(name)
    data = json.loads((FOLDER / f"{name}.json").read_text())
    ends = [RankExit(end["rank"], 0, end["t"], end.get("code"), end.get("signal")) for end in data["ends"]]
    for mute in (one.rank for one in snapshot.inspections):
        answers = tuple(
            one._replace(stacks="", recorder=False, collectives=(), groups=(), waits=()) if one.rank == mute else one
            for one in snapshot.inspections
        )
        found = verdict(snapshot._replace(inspections=answers), ends, RANKS)
        if complete.odd or found.odd != (mute,):
            assert set(found.odd) <= set(complete.odd), (mute, verdict_in_words(found))


def test_equal_stacks_are_shown_once() -> None:
    snapshot, found = recorded("two_locks")
    text = stacks_in_words(snapshot, found, {rank: f"n{rank // 2 + 1}" for rank in range(RANKS)})
    heads = [line for line in text.splitlines() if line.startswith("rank")]
    assert 2 == len(heads)
    assert heads[0].startswith("ranks 0,2-3 on n[1-2] (waiting in all_reduce #7 for")
    assert heads[1].startswith("rank 1 on n1 (waiting for a lock")
    assert 1 == text.count("in all_reduce\n")
    assert "in writer" in text
    assert text.index("in writer") < text.rindex("in two_locks")  # the main thread is the last, as in faulthandler


def test_ranks_without_a_stack_are_named() -> None:
    snapshot, found = recorded("stopped")
    assert "rank 3: no stack: stopped by a signal (SIGSTOP) (pid " in stacks_in_words(snapshot, found, {})
    snapshot, found = recorded("left")
    assert "rank 2: exited with status 0 " in stacks_in_words(snapshot, found, {})
    silent = snapshot._replace(inspections=snapshot.inspections[:1], silent=(1,))
    hosts = {0: "n1", 1: "n1", 2: "n2", 3: "n2"}
    text = stacks_in_words(silent, verdict(silent, (), RANKS), hosts)
    assert "ranks 1-3 on n[1-2]: no answer" in text


def test_only_some_ranks() -> None:
    snapshot, found = recorded("left")
    text = stacks_in_words(snapshot, found, {}, ranks=(1,))
    assert ["rank 1 (waiting in TCPStore.wait):"] == [line for line in text.splitlines() if line.startswith("rank")]


def test_no_mixture_of_recordings_is_too_much() -> None:
    """Ranks of different programs side by side, some of them silent or gone: there is always an answer."""
    chance = random.Random(19)
    ranks = [one for name in EXPECTED for one in recorded(name)[0].inspections]
    for _ in range(100):
        size = chance.randint(1, 6)
        chosen = [rank for rank in range(size) if chance.random() < 0.9]
        inspections = tuple(chance.choice(ranks)._replace(rank=rank, node=rank % 2) for rank in chosen)
        exits = tuple(RankExit(rank, 0, 1.0, chance.choice((0, 1))) for rank in range(size) if rank not in chosen[1:])
        snapshot = Snapshot(20.0, SnapshotReason.FAILURE, 0, inspections, chance.choice(((), (1,))))
        found = verdict(snapshot, exits[: chance.randint(0, 2)], size, chance.choice((None, 1795804544.0)))
        assert list(range(size)) == sorted(rank for situation in found.situations for rank in situation.ranks)
        assert not set(found.odd) & set(found.waiting)
        assert "\n" not in verdict_in_words(found, {rank: f"n{rank % 2}" for rank in range(size)})
        assert evidence_in_words(found)
        assert stacks_in_words(snapshot, found, {})
        told = verdict_as_json(found)
        assert json.loads(json.dumps(told)) == told
