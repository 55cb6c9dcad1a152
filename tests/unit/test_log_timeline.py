"""An agent's record of the times of logs: small, read back completely, and untrusted."""

from __future__ import annotations

import random
from typing import Callable

from muster.agent.log_timeline import Grown, Reading, Timeline


class File:
    """A file in memory, on a disk that may be full."""

    def __init__(self) -> None:
        self.data, self.full = b"", False

    def __call__(self, data: bytes) -> bool:
        self.data += data[: len(data) // 2] if self.full else data
        return not self.full


class Clock:
    """A clock that is set by hand, and calls to be made later."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.later: list[Callable[[], None]] = []

    def __call__(self) -> float:
        return self.now

    def after(self, _: float, do: Callable[[], None]) -> None:
        self.later.append(do)


def timeline() -> tuple[Timeline, File, Clock]:
    file, clock = File(), Clock()
    return Timeline(file, clock.after, clock), file, clock


def test_what_is_written_is_read_back_in_any_pieces() -> None:
    writer, file, clock = timeline()
    writer.grown(0, [(0, "out", 30), (1, "err", 12), (0, "out", 35)])
    clock.now += 0.012
    writer.grown(0, [(1, "err", 20)])
    clock.now = 2000.5
    writer.grown(1, [(0, "out", 7)])
    told = [
        *(Grown(1000.0, 0, 0, "out", 30), Grown(1000.0, 0, 1, "err", 12), Grown(1000.0, 0, 0, "out", 35)),
        *(Grown(1000.012, 0, 1, "err", 20), Grown(2000.5, 1, 0, "out", 7)),
    ]
    assert file.data == b"@ 1000.000 0\n0 0o30 1e12 0o5\n12 1e8\n@ 2000.500 1\n0 0o7\n"
    for cut in range(len(file.data)):
        reading = Reading()
        assert reading.feed(file.data[:cut]) + reading.feed(file.data[cut:]) == told


def test_a_file_continued_by_a_restarted_agent_counts_from_the_start() -> None:
    """Then the first lengths that are reported are those of the whole logs."""
    one, first, _ = timeline()
    one.grown(0, [(0, "out", 30)])
    other, second, _ = timeline()
    other.grown(0, [(0, "out", 50)])
    assert [grown.upto for grown in Reading().feed(first.data + second.data)] == [30, 50]


def test_a_full_disk_loses_only_output_written_meanwhile() -> None:
    writer, file, clock = timeline()
    writer.grown(0, [(0, "out", 30), (0, "err", 8)])
    file.full = True
    for size in (40, 50):
        writer.grown(0, [(0, "out", size)])
    file.full = False
    clock.now += 1
    writer.grown(0, [(0, "out", 60)])
    found = Reading().feed(file.data)
    assert found[-1] == Grown(1001.0, 0, 0, "out", 60)
    assert {grown.upto for grown in found if grown.stream == "err"} == {8}
    assert [grown.upto for grown in found if grown.stream == "out"][:1] == [30]


def test_it_stays_small_beside_the_logs() -> None:
    """Of short lines, each 10 ms: after a while it grows by a line per second; the last length is recorded all the
    same."""
    writer, file, clock = timeline()
    size = slowly = 0
    for _ in range(100_000):
        clock.now += 0.01
        size += 4
        writer.grown(0, [(0, "out", size), (0, "err", size)])
        if clock.later and random.Random(size).random() < 0.01:  # about once a second
            clock.later.pop()()
            slowly += 1
    writer.flush()
    assert len(file.data) < 65536 + 2 * size // 8 + slowly * 400, "10 bytes for each 8 of the logs, without a bound"
    assert Reading().feed(file.data)[-1].upto == size


def test_invalid_lines_are_skipped() -> None:
    """A host may send anything."""
    text = (
        b"@ 999999999999.000 0\n12 0o5\n\xff\xfe\n@ x 0\n@ 5.000 0\n500 0o5\n-1 0o5\n1 0x5\n1 0o-5\n1 0o"
        + b"9" * 30
        + b"\n500 0o6\n"
    )
    assert Reading().feed(text) == [Grown(5.5, 0, 0, "out", 5), Grown(6.0, 0, 0, "out", 11)]
