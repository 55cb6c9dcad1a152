"""Growing files are detected and read to their end, and nothing is lost."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from manual_loop import ManualLoop

from muster.agent.log_streaming import LogStreamer
from muster.agent.logfiles import LogFile, LogWatcher, Piece, tail
from muster.protocol.paths import rank_file

PLAIN_LOG = b"warning: slow disk\n" * 10


@pytest.fixture
def follower(tmp_path: Path) -> Iterator[LogWatcher]:
    found = LogWatcher(str(tmp_path), [0, 1])
    yield found
    found.close()


def append(stream: LogFile, data: bytes) -> None:
    with open(stream.path, "ab") as file:
        file.write(data)


def streams(pieces: list[Piece]) -> list[LogFile]:
    """Return the streams of these pieces, in order."""
    return [piece.stream for piece in pieces]


def everything(follower: LogWatcher) -> dict[str, bytes]:
    """Return all that is detected and can be read now."""
    found: dict[str, bytes] = {}
    while grown := follower.notice():
        for stream in streams(grown):
            name = os.path.basename(stream.path)
            while data := stream.at(len(found.get(name, b"")), 1000):
                found[name] = found.get(name, b"") + data
    return found


def test_the_files_of_a_rank_have_their_place() -> None:
    assert rank_file("/runs/x/attempt_0", 3, "out") == "/runs/x/attempt_0/rank_00003.out"


def test_growth_is_reported_by_rank_and_stream(follower: LogWatcher) -> None:
    """Only the files that grew, and only those of the ranks."""
    out, err = follower.of(1)
    assert (out.kind, err.kind) == ("out", "err")
    append(out, b"hello\n")
    append(LogFile(7, "out", str(Path(out.path).parent / "rank_00007.out")), b"not ours\n")
    assert streams(follower.notice()) == [out]
    assert (out.at(0, 100), out.at(6, 100), err.at(0, 100)) == (b"hello\n", b"", b"")


def test_what_grows_while_sizes_are_looked_at_comes_after_what_grew_before(
    follower: LogWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rank writes out and err in turn, then the other: also where the second begins within the first `notice`."""
    (out, err), (other_out, other_err) = follower.of(0), follower.of(1)
    events = follower._events
    looks: list[list[LogFile]] = []

    def first_looked_at() -> list[LogFile]:
        found = events()
        if not looks:
            for one, two in ((out, err), (other_out, other_err)):
                for _ in range(3):
                    append(one, b"out\n")
                    append(two, b"err\n")
        looks.append(found)
        return found

    monkeypatch.setattr(follower, "_events", first_looked_at)
    for _ in range(3):
        append(out, b"out\n")
        append(err, b"err\n")
    grown: list[Piece] = []
    while len(grown) < 18:
        grown += follower.notice()
    assert [out, err] * 6 + [other_out, other_err] * 3 == streams(grown)


def test_a_file_that_does_not_grow_costs_nothing(follower: LogWatcher) -> None:
    """`notice` does not wait, and a file that was only opened has not grown."""
    Path(follower.of(0)[0].path).touch()
    assert follower.notice() == []


def test_a_file_is_read_in_pieces_no_larger_than_asked_for(follower: LogWatcher) -> None:
    out = follower.of(0)[0]
    append(out, b"abcdef")
    assert [out.at(0, 4), out.at(4, 4), out.size()] == [b"abcd", b"ef", 6]
    append(out, b"g")
    assert out.at(6, 4) == b"g"


def test_a_file_that_does_not_exist_yet_is_empty(follower: LogWatcher) -> None:
    out = follower.of(0)[0]
    assert (out.at(0, 10), out.size()) == (b"", 0)


def test_a_deleted_file_is_empty(tmp_path: Path) -> None:
    """Also if its directory is a file by now. On NFS the error is ESTALE, if another machine has deleted it."""
    (tmp_path / "attempt_0").write_text("")
    stream = LogFile(0, "out", rank_file(str(tmp_path / "attempt_0"), 0, "out"))
    assert (0, b"") == (stream.size(), stream.at(0, 10))


def test_nothing_is_lost_in_a_flood(follower: LogWatcher) -> None:
    """More events than the kernel's queue holds: then all files are checked again."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 50_000:
        pytest.skip(f"the queue of this kernel is long: {limit}")
    first, second = follower.of(0)[0], follower.of(1)[0]
    with open(first.path, "ab", buffering=0) as one, open(second.path, "ab", buffering=0) as other:
        for _ in range(limit // 2 + 10):
            # in turns: the kernel merges equal events
            one.write(b"1")
            other.write(b"2")
        # this one comes after the queue is full
        append(follower.of(1)[1], b"the last words")
    count = limit // 2 + 10
    expected = {"rank_00000.out": b"1" * count, "rank_00001.out": b"2" * count, "rank_00001.err": b"the last words"}
    found = everything(follower)
    assert {name: data for name, data in found.items() if data} == expected


def test_the_time_of_a_traceback_is_kept(follower: LogWatcher) -> None:
    """When its head was seen in stderr, even if the head came in two pieces; other text sets no time."""
    err = follower.of(0)[1]
    append(err, PLAIN_LOG)
    err.scan()
    assert err.traceback_at is None
    before = time.monotonic()
    append(err, b"Traceback (most rec")
    err.scan()
    assert err.traceback_at is None
    append(err, b"ent call last):\n  File")
    err.scan()
    assert err.traceback_at is not None
    assert before <= err.traceback_at <= time.monotonic()


def test_the_latest_traceback_counts(follower: LogWatcher) -> None:
    """One that was handled long ago does not determine when the rank failed; nor does text that follows one."""
    err = follower.of(0)[1]
    append(err, b"Traceback (most recent call last):\nKeyError: 1\n")
    err.scan()
    first = err.traceback_at
    append(err, PLAIN_LOG)
    err.scan()
    assert err.traceback_at == first
    append(err, b"Fatal Python error: Segmentation fault\n")
    err.scan()
    assert first is not None
    assert err.traceback_at is not None
    assert err.traceback_at > first


def test_the_words_after_a_fatal_error_do_not_move_its_moment(follower: LogWatcher) -> None:
    """faulthandler writes its first line in several pieces."""
    err = follower.of(0)[1]
    append(err, b"Fatal Python error: ")
    err.scan()
    first = err.traceback_at
    append(err, b"Segmentation fault\n\n")
    err.scan()
    assert first is not None
    assert err.traceback_at == first


def test_looking_for_tracebacks_takes_nothing_from_who_reads(follower: LogWatcher) -> None:
    err = follower.of(0)[1]
    append(err, PLAIN_LOG)
    err.scan()
    assert err.at(0, 1000) == PLAIN_LOG


def test_where_the_kernel_tells_of_no_growth_sizes_do(follower: LogWatcher) -> None:
    """A machine may have no inotify instances left; then each check finds what has grown since the last."""
    follower.close()
    out, err = follower.of(0)
    append(out, b"one")
    append(err, b"two")
    assert [streams(follower.notice()), follower.notice()] == [[out, err], []]
    append(out, b"more")
    assert streams(follower.notice()) == [out]


def test_the_tail_of_a_file(tmp_path: Path) -> None:
    """Its last bytes; nothing if there is no file."""
    path = tmp_path / "log"
    path.write_bytes(b"0123456789")
    assert [tail(str(path), 4), tail(str(path)), tail(str(tmp_path / "none"))] == [b"6789", b"0123456789", b""]


def test_files_are_reported_in_the_order_in_which_they_grew(tmp_path: Path) -> None:
    """So stderr that a rank wrote before stdout is shown before it."""
    follower = LogWatcher(str(tmp_path), range(4))
    order = [follower.of(rank)[kind] for rank, kind in ((2, 1), (0, 0), (3, 1), (1, 0), (2, 0))]
    for stream in (*order, order[0]):
        with open(stream.path, "ab") as file:
            file.write(b"x")
    assert streams(follower.notice()) == order
    follower.close()


def test_lines_that_went_to_stdout_and_stderr_in_turn_are_in_order(follower: LogWatcher) -> None:
    """The kernel reports whose turn it was: blocks of several lines too are separated, if all have the same number."""
    out, err = follower.of(0)
    for number in range(100):
        append(out, b"out %d\n" % number)
        append(err, b"err %d\n" % number)
    assert follower.notice() == [
        Piece(stream, 6 * turn if turn <= 10 else 60 + 7 * (turn - 10))
        for turn in range(1, 101)
        for stream in (out, err)
    ]
    for _ in range(2):
        append(out, b"a\n")
        append(out, b"b\nc\n")
        append(err, b"Traceback\n")
        append(err, b"Error\n")
    begin = 690
    assert follower.notice() == [
        *(Piece(out, begin + 6), Piece(err, begin + 16)),
        *(Piece(out, begin + 12), Piece(err, begin + 32)),
    ]


def test_a_chatty_rank_costs_no_more_than_a_look_at_its_sizes(follower: LogWatcher) -> None:
    """Thousands of turns in one check are not separated, and nothing is lost."""
    out, err = follower.of(0)
    with open(out.path, "ab", buffering=0) as one, open(err.path, "ab", buffering=0) as other:
        for _ in range(4000):
            one.write(b"1\n")
            other.write(b"2\n")
    assert follower.notice() == [Piece(out, 8000), Piece(err, 8000)]


def test_what_was_written_before_a_rank_was_known_is_noticed(follower: LogWatcher) -> None:
    append(LogFile(2, "err", rank_file(os.path.dirname(follower.of(0)[0].path), 2, "err")), b"early\n")
    assert follower.notice() == []
    _, err = follower.add(2)
    assert follower.notice() == [Piece(err, 6)]


def test_a_line_whose_write_the_kernel_has_not_told_of_yet_is_waited_for(tmp_path: Path) -> None:
    """Its size changes a moment earlier. Two lines in one turn look the same, and are reported after some moments."""
    follower = LogWatcher(str(tmp_path), [0])
    out, err = follower.of(0)
    append(out, b"a\n")
    append(err, b"b\n")
    events = follower._events()
    append(out, b"c\n")
    late = follower._events()
    told = iter([events, [], late, []])
    follower._events = lambda: next(told)  # type: ignore[method-assign]
    assert (follower.notice(), follower.undecided) == ([], True)
    assert follower.notice() == [Piece(out, 2), Piece(err, 2), Piece(out, 4)]
    assert not follower.undecided
    follower.close()

    (tmp_path / "other").mkdir()
    follower = LogWatcher(str(tmp_path / "other"), [0])
    out, err = follower.of(0)
    append(out, b"a\nb\n")
    append(err, b"c\n")
    looks = 0
    while not (found := follower.notice()):
        looks += 1
        assert follower.undecided and looks < 20
    assert found == [Piece(out, 4), Piece(err, 2)]
    append(out, b"a\nb\n")
    append(err, b"c\n")
    assert follower.notice(decide=True) == [Piece(out, 8), Piece(err, 4)]
    follower.close()


def test_two_lines_in_one_turn_wait_only_where_more_can_be_told(tmp_path: Path) -> None:
    """A rank that has since written elsewhere has no write that the kernel has yet to report."""
    follower = LogWatcher(str(tmp_path), [0])
    out, err = follower.of(0)
    append(out, b"a\nb\n")
    append(err, b"c\n")
    os.utime(err.path, ns=(0, os.stat(out.path).st_mtime_ns + 1))
    assert follower.notice() == [Piece(out, 4), Piece(err, 2)]
    append(out, b"a\nb\n")
    append(err, b"c\n")
    os.utime(out.path, ns=(0, os.stat(err.path).st_mtime_ns))  # the clock of a file system is coarse
    looks = 0
    while not (found := follower.notice()):
        looks += 1
        assert follower.in_doubt == (out, err)
    assert (found, looks) == ([Piece(out, 8), Piece(err, 4)], 2)
    follower.close()


def test_a_traceback_has_its_time_while_the_order_is_uncertain(tmp_path: Path) -> None:
    loop = ManualLoop()
    logs = LogStreamer(loop, lambda *_, **__: None, print)
    logs._follower = follower = LogWatcher(str(tmp_path), [0])
    out, err = follower.of(0)
    append(err, b"Traceback (most recent call last):\nError\n")
    append(out, b"c\n")
    os.utime(out.path, ns=(0, os.stat(err.path).st_mtime_ns))
    logs.notice(decide=False)
    assert follower.undecided and err.traceback_at is not None
    follower.close()
    loop.close()
