"""Lines and texts of several ranks are shown once, also if numbers in them differ."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from muster.core.folding import Block, FoldedText, LineFolder, fold_texts
from muster.core.layout import fold
from muster.ui.folded_lines import FoldedLines, ranks_in_words

TRACEBACK = """\
[rank{rank}]: Traceback (most recent call last):
[rank{rank}]:   File "/home/ann/train.py", line {line}, in <module>
[rank{rank}]:     loss = step(batch)
[rank{rank}]: ValueError: bad label -{label} at 0x7f{rank}a
"""


def folded(*lines: tuple[int, str]) -> list[tuple[str, tuple[str, ...]]]:
    """Fold lines of stdout, given with their ranks; return (ranks, lines) of each block."""
    folder = LineFolder({})
    blocks = [block for rank, line in lines for block in folder.add(rank, "out", line)]
    return [(fold(block.ranks), block.lines) for block in blocks + folder.rest()]


def in_turn(*texts: str) -> list[tuple[int, str]]:
    """Return the lines of these ranks as they arrive if all write equally fast."""
    lines = [text.splitlines() for text in texts]
    longest = max(map(len, lines))
    return [(rank, lines[rank][at]) for at in range(longest) for rank in range(len(lines)) if at < len(lines[rank])]


# ---- whole texts -----------------------------------------------------------------------------------------------------


def test_equal_texts_are_one() -> None:
    assert [FoldedText((0, 2), "a"), FoldedText((1,), "b")] == fold_texts({2: "a", 1: "b", 0: "a"})


def test_numbers_that_differ_are_shown_once_and_marked() -> None:
    texts = {rank: TRACEBACK.format(rank=rank, line=21, label=7) for rank in range(3)}
    (found,) = fold_texts(texts)
    assert (0, 1, 2) == found.ranks
    assert "[rank0…]: Traceback" in found.text and 'train.py", line 21, in' in found.text
    assert found.text.endswith("ValueError: bad label -7 at 0x7f0a…\n")


def test_ranks_at_different_lines_are_not_at_the_same_place() -> None:
    texts = {rank: TRACEBACK.format(rank=rank, line=21 + rank % 2, label=7) for rank in range(4)}
    assert [(0, 2), (1, 3)] == [found.ranks for found in fold_texts(texts)]
    assert 2 == len(fold_texts({0: "at train.py:21 in check", 1: "at train.py:22 in check"}))


@pytest.mark.parametrize(
    ("first", "second", "shown"),
    [
        ("connect to 10.0.0.1:29500", "connect to 10.0.0.2:29500", "connect to 10.0.0.1:29500…"),
        ("loss 1.5e-05 after 2s", "loss 2 after 2s", "loss 1.5e-05… after 2s"),
        (
            "2026-11-27 18:00:01,123 INFO ready",
            "2026-11-27 18:00:01,124 INFO ready",
            "2026-11-27 18:00:01,123… INFO ready",
        ),
        ("rank 0 of 2", "rank 1 of 2", "rank 0… of 2"),
        ("Rank0 is up", "Rank1 is up", "Rank0… is up"),
        ("worker-3.log", "worker-4.log", "worker-3….log"),
        ("x = 5", "x = -5", "x = 5…"),
        ("12", "7", "12…"),
    ],
)
def test_which_numbers_may_differ(first: str, second: str, shown: str) -> None:
    assert [FoldedText((0, 1), shown)] == fold_texts({0: first, 1: second})


@pytest.mark.parametrize(
    ("first", "second"),
    [("dtype float32", "dtype float16"), ("loss 1.5", "loss nan"), ("a b", "a  b"), ("", " "), ("x\0y", "x1y")],
)
def test_what_differs_otherwise_is_not_folded(first: str, second: str) -> None:
    assert 2 == len(fold_texts({0: first, 1: second}))


def test_the_name_of_its_own_host_may_differ() -> None:
    hosts = {0: "n1", 1: "gpu-a"}
    assert [FoldedText((0, 1), "hello from n1…!")] == fold_texts({0: "hello from n1!", 1: "hello from gpu-a!"}, hosts)
    assert 2 == len(fold_texts({0: "hello from n1", 1: "hello from n1"}, hosts)), "rank 1 names another host"
    assert 2 == len(fold_texts({0: "n10", 1: "gpu-ab"}, hosts))


# ---- lines -----------------------------------------------------------------------------------------------------------


def test_lines_of_all_ranks_are_one_block() -> None:
    assert [("0-2", ("a", "b", "c"))] == folded(*in_turn("a\nb\nc", "a\nb\nc", "a\nb\nc"))


def test_a_line_of_one_rank_stands_where_it_wrote_it() -> None:
    assert [("0-1", ("a",)), ("1", ("odd",)), ("0-1", ("b", "c"))] == folded(*in_turn("a\nb\nc", "a\nodd\nb\nc"))


def test_a_first_line_of_one_rank_does_not_prevent_folding() -> None:
    assert [("1", ("odd",)), ("0-1", ("a", "b", "a"))] == folded(*in_turn("a\nb\na", "odd\na\nb\na"))


def test_a_rank_that_writes_later_is_folded() -> None:
    first, second = [(0, line) for line in "abcde"], [(1, line) for line in "acde"]
    assert [("0-1", ("a",)), ("0", ("b",)), ("0-1", ("c", "d", "e"))] == folded(*first, *second)


def test_lines_that_only_one_rank_writes_stay_together() -> None:
    found = folded(*in_turn("start\nx\ny\nend", "start\np\nq\nend"))
    assert [("0-1", ("start",)), ("0", ("x", "y")), ("1", ("p", "q")), ("0-1", ("end",))] == found


def test_a_step_is_folded_with_the_same_step() -> None:
    """A rank that misses one is not taken for being a step ahead."""
    steps = [f"step {number} of 9" for number in range(9)]
    found = folded(*((0, step) for step in steps), *((1, step) for step in steps if "3" not in step))
    assert [("0-1", tuple(steps[:3])), ("0", (steps[3],)), ("0-1", tuple(steps[4:]))] == found


def test_differing_losses_are_marked() -> None:
    found = folded((0, "step 1 loss 0.5"), (1, "step 1 loss 0.6"), (0, "step 2 loss 0.4"), (1, "step 2 loss 0.4"))
    assert [("0-1", ("step 1 loss 0.5…", "step 2 loss 0.4"))] == found


def test_of_differing_numbers_that_of_the_lowest_rank_is_shown() -> None:
    found = folded((2, "rank 2 of 3"), (0, "rank 0 of 3"), (1, "rank 1 of 3"))
    assert [("0-2", ("rank 0… of 3",))] == found


def test_the_lines_of_a_rank_stay_in_order() -> None:
    """For any mixture: what a rank wrote is what the blocks with this rank contain, in this order."""
    for seed in range(200):
        chance = random.Random(seed)
        wrote: dict[int, list[str]] = {rank: [] for rank in range(3)}
        folder, blocks = LineFolder({}), list[Block]()
        for _ in range(chance.randrange(60)):
            rank, line = chance.randrange(3), chance.choice("aabbcdxyz") * chance.randrange(1, 3)
            wrote[rank].append(line)
            blocks += folder.add(rank, "out", line, chance.choice([None, 1.0, 100.0]))
        blocks += folder.rest()
        for rank in range(3):
            assert wrote[rank] == [line for block in blocks if rank in block.ranks for line in block.lines], seed


def test_stdout_and_stderr_are_compared_apart() -> None:
    folder = LineFolder({})
    for rank, stream, line in ((0, "out", "a"), (0, "err", "b"), (1, "err", "b"), (1, "out", "a")):
        assert [] == folder.add(rank, stream, line)
    assert [Block((0, 1), ("a", "b"))] == folder.rest()


def test_lines_far_apart_in_time_are_not_folded() -> None:
    folder = LineFolder({})
    assert [] == folder.add(0, "out", "a", 1.0)
    assert [] == folder.add(1, "out", "a", 9.0)
    assert [Block((0, 1), ("a",))] == folder.add(2, "out", "a", 12.0)
    assert [Block((2,), ("a",))] == folder.rest()


def test_10_megabytes_of_each_rank_take_bounded_memory() -> None:
    """Lines of several ranks, lines of one rank only, and a rank that stops writing."""
    folder = LineFolder({})
    wrote, given = dict.fromkeys(range(4), 0), dict.fromkeys(range(4), 0)
    most = 0
    for number in range(12_000):
        for rank in range(4):
            if rank == 3 and number > 100:
                continue
            size = 80 if number < 2000 else 1000
            wrote[rank] += 1
            for block in folder.add(rank, "out", f"step {number} {'xxyz'[rank] * size}"):
                for one in block.ranks:
                    given[one] += len(block.lines)
        most = max(most, sum(wrote.values()) - sum(given.values()))
    assert most < 4 * 20_001
    for block in folder.rest():
        for one in block.ranks:
            given[one] += len(block.lines)
    assert wrote == given


# ---- bytes -----------------------------------------------------------------------------------------------------------

WHERE = {0: ("n1", 0, 0), 1: ("n1", 1, 0), 2: ("n2", 0, 1)}


def shown(*pieces: tuple[int, bytes], tail: int | None = None) -> str:
    lines = FoldedLines(WHERE, False, tail)
    text = b"".join(lines.feed(rank, "out", data) for rank, data in pieces)
    return (text + lines.rest() + lines.rest()).decode("utf-8", "surrogateescape")


def test_a_block_stands_below_its_ranks_and_hosts() -> None:
    found = shown((0, b"a\n\nb\n"), (2, b"a\n\nb\nc\n"), (1, b"a\n"))
    assert "ranks 0-2 on n[1-2]:\n  a\nranks 0,2 on n[1-2]:\n\n  b\nrank 2 on n2:\n  c\n" == found


def test_without_several_hosts_only_ranks_are_named() -> None:
    assert "ranks 0,2" == ranks_in_words((0, 2), {0: "desk", 2: "desk"})
    assert "rank 5 on n2" == ranks_in_words([5], {4: "n1", 5: "n2"})


def test_a_line_may_come_in_pieces_and_end_without_a_newline() -> None:
    assert "ranks 0-1 on n1:\n  lossy\n" == shown((0, b"lo"), (1, b"lossy"), (0, b"ssy"))


def test_of_a_progress_bar_the_last_state_counts() -> None:
    bar = b"".join(b"\r%d%%" % done for done in range(101))
    assert "ranks 0-1 on n1:\n  100%\n" == shown((0, bar), (1, b"0%\r50%\r100%\r\n"))


def test_bytes_that_are_no_text_stay_as_they_are() -> None:
    data = bytes(set(range(256)) - set(b"\r\n")) * 2
    found = shown((0, data + b"\n"), (1, data + b"\n"))
    assert b"ranks 0-1 on n1:\n  " + data + b"\n" == found.encode("utf-8", "surrogateescape")


def test_a_line_without_end_takes_bounded_memory() -> None:
    lines = FoldedLines(WHERE, False)
    tracemalloc.start()
    size = sum(len(lines.feed(0, "out", b"\xff" * 10_000)) for _ in range(1000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size + len(lines.rest()) >= 10_000_000 and peak < 30 << 20


def test_the_last_lines_of_all_ranks_are_folded() -> None:
    assert "ranks 0-1 on n1:\n  b\n" == shown((0, b"a\n"), (1, b"a\n"), (0, b"b\n"), (1, b"b\n"), tail=2)
    assert "" == shown((0, b"a\n"), tail=0)
