"""Output of ranks becomes whole lines with prefixes; on a terminal a progress bar is updated in place."""

from __future__ import annotations

import time
from random import Random

import pytest

from muster.core.layout import layout
from muster.core.model import Host, Job, Plan, Program
from muster.core.results import RunResult, RunState
from muster.errors import InvalidRequest
from muster.ui.color import use_color
from muster.ui.terminal import TIMESTAMP, LinePrefixer, Moment, Prefix, Raw, TerminalView, prefixes

PREFIXES: dict[int, Prefix] = {0: b"[0] ", 1: b"[1] "}
AWAY = b"\r\x1b[K"
"""Escape sequence that removes a progress bar from the last line of a terminal."""


def pipe() -> LinePrefixer:
    return LinePrefixer(PREFIXES, terminal=False)


def terminal() -> LinePrefixer:
    return LinePrefixer(PREFIXES, terminal=True)


# ---- not on a terminal -----------------------------------------------------------------------------------------------


def test_each_line_has_the_prefix_of_its_rank() -> None:
    assert pipe().feed(1, "out", b"a\n\nb\n") == b"[1] a\n[1] \n[1] b\n"


def test_a_line_is_shown_once_it_is_whole() -> None:
    """However it arrives; lines of other ranks and of the other stream do not split it."""
    lines = pipe()
    fed = [(0, "out", b"lo"), (1, "out", b"x\ny"), (0, "err", b"oops\n"), (0, "out", b"ss 0.1\nnext")]
    assert [lines.feed(*piece) for piece in fed] == [b"", b"[1] x\n", b"[0] oops\n", b"[0] loss 0.1\n"]
    assert lines.rest() == b"[0] next\n[1] y\n"
    assert lines.rest() == b""


def test_a_line_without_an_end_does_not_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of 1 GB took 2.9 GB of memory."""
    monkeypatch.setattr("muster.ui.terminal.LONGEST_LINE", 10)
    lines = pipe()
    shown = [lines.feed(0, "out", b"0123") for _ in range(5)]
    assert shown == [b"", b"", b"[0] 012301230123\n", b"", b""]
    assert lines.feed(0, "out", b"4\n5") == b"[0] 012301234\n"
    assert lines.rest() == b"[0] 5\n"


def test_no_bytes_no_line() -> None:
    lines = pipe()
    assert (lines.feed(0, "out", b""), lines.rest()) == (b"", b"")


def test_output_is_bytes() -> None:
    """Invalid UTF-8, and every other control character, is passed through."""
    data = bytes(set(range(256)) - set(b"\r\n"))
    assert pipe().feed(0, "out", data + b"\n") == b"[0] " + data + b"\n"


def test_without_a_prefix_lines_stay_as_they_are() -> None:
    lines = LinePrefixer({0: b""}, terminal=False)
    assert lines.feed(0, "out", b"a\n\nb\nc") + lines.rest() == b"a\n\nb\nc\n"


def test_any_pieces_give_the_same_lines() -> None:
    data = b"".join(b"step %d \xff\n" % number for number in range(50)) + b"the end"
    expected = b"".join(b"[0] " + line + b"\n" for line in data.split(b"\n"))
    for seed in range(50):
        cuts = sorted(Random(seed).randrange(len(data)) for _ in range(20))
        lines = pipe()
        shown = b"".join(lines.feed(0, "out", data[a:b]) for a, b in zip([0, *cuts], [*cuts, len(data)]))
        assert shown + lines.rest() == expected, seed


def test_only_the_last_form_of_a_progress_bar_is_shown() -> None:
    """When its line ends; a line with a Windows line end is a plain line."""
    lines = pipe()
    assert lines.feed(0, "err", b" 10%\r 50%") == b""
    assert lines.feed(0, "err", b"\r100%\ndone\r\n") == b"[0] 100%\n[0] done\n"
    assert lines.feed(0, "err", b"1\r2\r\n") == b"[0] 2\n"
    lines.feed(0, "err", b" 10%\r 20%\r")
    assert lines.rest() == b"[0]  20%\n"


@pytest.mark.parametrize("lines", [pipe(), terminal()], ids=["pipe", "terminal"])
def test_a_progress_bar_of_a_day_takes_no_more_room_than_one_of_a_second(lines: LinePrefixer) -> None:
    """Overwritten text is not kept."""
    for number in range(2000):
        lines.feed(0, "err", b"\r%5d/100000 [00:12<00:34]" % number)
    assert sum(map(len, lines._parts.values())) < 200


def test_pieces_of_a_progress_bar_give_what_the_whole_gives() -> None:
    data = b"a 1\r 2\r\r 3\r\nb\r\r\n\rc 10%\rc 20%\r\rc 30%\n\r\rlast\r"
    expected = b"[0]  3\n[0] b\n[0] c 30%\n[0] last\n"
    for at in range(len(data)):
        for then in range(at, len(data)):
            lines = pipe()
            shown = b"".join(lines.feed(0, "out", part) for part in (data[:at], data[at:then], data[then:]))
            assert shown + lines.rest() == expected, (at, then)


class _Counted(bytearray):
    """The beginning of a line that must not be copied as a whole."""

    def __add__(self, other: object) -> bytearray:
        raise AssertionError("a long line is copied for each of its pieces")


def test_a_long_line_is_not_copied_for_each_of_its_pieces() -> None:
    """50 MB without a newline took a minute."""
    for lines in (pipe(), terminal()):
        begun = _Counted()
        lines._parts[0, "out"] = begun
        for _ in range(100):
            assert lines.feed(0, "out", b"x" * 1000) == b""
        assert lines._parts[0, "out"] is begun
        assert lines.feed(0, "out", b"\n") == b"[0] " + b"x" * 100_000 + b"\n"


# ---- on a terminal --------------------------------------------------------------------------------------------------


def test_a_progress_bar_moves_in_place() -> None:
    """Shown at once, overwritten by its next form, and replaced by its line when that ends."""
    lines = terminal()
    assert lines.feed(0, "err", b" 10%\r") == b"[0]  10%"
    assert lines.feed(0, "err", b" 20%\r") == AWAY + b"[0]  20%"
    assert lines.feed(0, "err", b"100%\n") == AWAY + b"[0] 100%\n"
    assert lines.feed(0, "err", b"next\n") == b"[0] next\n"


def test_a_progress_bar_makes_room_for_lines() -> None:
    """A line of another rank replaces the bar, which comes back with its next update; the same holds for messages."""
    lines = terminal()
    lines.feed(0, "err", b"\r 10%")
    assert lines.feed(1, "out", b"hello\n") == AWAY + b"[1] hello\n"
    assert lines.feed(0, "err", b"\r 20%") == b"[0]  20%"
    assert lines.clear() == AWAY
    assert lines.clear() == b""
    assert lines.feed(0, "err", b"\r 30%") == b"[0]  30%"


def test_bars_of_several_ranks_take_turns() -> None:
    lines = terminal()
    shown = [lines.feed(rank, "err", b"\r%d%%" % rank) for rank in (0, 1, 0)]
    assert shown == [b"[0] 0%", AWAY + b"[1] 1%", AWAY + b"[0] 0%"]


def test_a_bar_is_cut_to_a_length_that_stays_on_one_line() -> None:
    """Otherwise it could not be removed again."""
    assert terminal().feed(0, "err", b"\r" + b"#" * 500) == b"[0] " + b"#" * 200


def test_a_part_of_a_line_waits_on_a_terminal_too() -> None:
    lines = terminal()
    assert (lines.feed(0, "out", b"par"), lines.feed(0, "out", b"t\n")) == (b"", b"[0] part\n")


def test_at_the_end_a_bar_is_replaced_by_its_last_form_as_a_line() -> None:
    lines = terminal()
    lines.feed(0, "err", b"\r 10%")
    assert lines.rest() == AWAY + b"[0]  10%\n"


def test_a_line_that_has_begun_is_shown_in_place_after_a_while() -> None:
    """Dots of one rank, which make room for lines of others, and never mix with them."""
    lines = terminal()
    assert lines.feed(0, "out", b"one\ndots") == b"[0] one\n"
    assert (lines.quiet(), lines.quiet()) == (b"[0] dots", b"")
    assert lines.feed(1, "out", b"two\nth") == AWAY + b"[1] two\n"
    assert lines.quiet() == b"[1] th"
    assert lines.feed(1, "out", b"ree\n") == AWAY + b"[1] three\n"
    assert (lines.feed(0, "out", b".."), lines.quiet()) == (b"", b"[0] dots..")
    assert lines.feed(0, "out", b"\n") == AWAY + b"[0] dots..\n"
    assert lines.quiet() == b""
    assert (pipe().feed(0, "out", b"dots"), pipe().quiet()) == (b"", b"")


def test_output_of_a_rank_with_a_terminal_is_shown_unchanged() -> None:
    raw = Raw()
    data = b"\x1b[?25l\x1b[1mlive\x1b[2A\r50%"
    assert raw.feed(0, "out", data) == data
    assert (raw.clear(), raw.clear()) == (b"\n", b""), "an open line is ended before other words"
    raw.feed(0, "out", b"whole\n\x1b[0m")
    assert raw.clear() == b"", "what moves nothing begins no line"


def test_a_terminal_is_restored_after_a_killed_rank() -> None:
    """Whatever modes it had set, in whatever pieces; modes that it reset itself need nothing."""
    raw = Raw()
    for piece in (b"\x1b[?1049h\x1b[?2", b"5l\x1b[?2004h\x1b[?1000;1006h\x1b[31mred", b"\x1b[?2004l"):
        raw.feed(0, "out", piece)
    assert raw.rest() == b"\x1b[?1049l\x1b[?25h\x1b[?1000l\x1b[?1006l\x1b[0m"
    assert raw.rest() == b""
    raw.feed(0, "out", b"\x1b[32mgreen\x1b[0m\x1b[?25l\x1b[?25h")
    assert raw.rest() == b""


# ---- the rank that reads the terminal --------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [False, True], ids=["pipe", "terminal"])
def test_a_prompt_is_shown_at_once(at: bool) -> None:
    """Output of the rank that reads the terminal is shown before its line ends; others start a new line."""
    lines = LinePrefixer(PREFIXES, terminal=at, eager=0)
    assert lines.feed(0, "out", b"name? ") == b"[0] name? "
    assert lines.feed(1, "out", b"still here\n") == b"\n[1] still here\n"
    assert lines.feed(0, "out", b"hello\nmore\nand") == b"[0] hello\n[0] more\n[0] and"
    assert lines.feed(0, "out", b" on\n") == b" on\n"
    assert lines.rest() == b""


def test_muster_ends_the_line_of_a_prompt_before_it_speaks() -> None:
    lines = LinePrefixer(PREFIXES, terminal=True, eager=0)
    lines.feed(0, "out", b"name? ")
    assert (lines.clear(), lines.feed(0, "out", b"x\n"), lines.rest()) == (b"\n", b"[0] x\n", b"")


# ---- prefixes -------------------------------------------------------------------------------------------------------

WHERE = {rank: ("a", rank, 0) for rank in range(11)}


def test_prefixes_are_as_wide_as_the_widest() -> None:
    found = prefixes(WHERE, None, colour=False)
    assert (found[3], found[10]) == (b"[ 3] ", b"[10] ")


def test_a_prefix_can_be_chosen() -> None:
    """`{host}`, `{rank}`, `{local_rank}` and `{node}` are filled in; an empty prefix is none."""
    assert prefixes({5: ("b", 1, 2)}, "{host}/{node} {local_rank} of {rank}: ", colour=False) == {5: b"b/2 1 of 5: "}
    assert prefixes(WHERE, "", colour=True)[3] == b""
    with pytest.raises(InvalidRequest, match="--prefix"):
        prefixes(WHERE, "{nope}", colour=False)
    for form in ("{time:%H\udcff}", "{time:9999}", "{time.year}"):
        with pytest.raises(InvalidRequest):
            prefixes(WHERE, form, colour=False)


def test_a_prefix_may_hold_the_time_of_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time when the line ended, in a format that may be chosen; `-` if it is unknown."""
    monkeypatch.setenv("TZ", "UTC-1")
    time.tzset()
    try:
        assert "-" == f"{Moment(1e18):%H}", "no clock goes so far"
        for conversion in ("!s", "!r"):
            (stands,) = prefixes({0: ("a", 0, 0)}, "{time" + conversion + "}", colour=False).values()
            assert b"01:00:05.500" == stands(5.5)  # type: ignore[operator]
        stands = prefixes({0: ("a", 0, 0)}, "{time} {time:%M:%S} {time:iso}> ", colour=False)
        lines = LinePrefixer(stands, terminal=False)
        assert lines.feed(0, "out", b"be", 1000.0) == b""
        at = b"01:16:41.500 16:41 1970-01-01T01:16:41.500+01:00> "
        assert lines.feed(0, "out", b"gun\nb\n", 1001.5) == at + b"begun\n" + at + b"b\n"
        assert lines.feed(0, "out", b"c\n") == b"- - -> c\n"
        assert prefixes({0: ("a", 0, 0)}, None, False, TIMESTAMP)[0](None) == b"- [0] "  # type: ignore[operator]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_each_rank_has_a_color_that_differs_from_the_next() -> None:
    found = prefixes(WHERE, None, colour=True)
    assert found[0] == b"\x1b[36m[ 0] \x1b[0m"
    assert str(found[0])[:9] != str(found[1])[:9]


def test_color_is_for_terminals_only() -> None:
    """Not with NO_COLOR."""
    import os
    import pty

    ours, theirs = pty.openpty()
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        found = [use_color(theirs, env) for env in ({}, {"NO_COLOR": "1"}, {"TERM": "dumb"}, {"NO_COLOR": ""})]
        assert (found, use_color(null, {})) == ([True, False, False, True], False)
    finally:
        for fd in (ours, theirs, null):
            os.close(fd)


# ---- a user's view ---------------------------------------------------------------------------------------------------


def shown(pieces: list[tuple[int, str, bytes]], stdin: int | None = None, words: str = "") -> dict[int, bytes]:
    """Return the output on each descriptor when two ranks write these pieces, muster prints a message, and the run
    ends."""
    job = Job(Program("command", ("x",)), "exec", "python", "", "/", stdin=stdin)
    view = TerminalView(Plan(job, layout([(Host("h"), 2)]), ()), "id", {}, quiet=False)
    found = {1: b"", 2: b""}

    def put(fd: int, data: bytes) -> None:
        found[fd] += data

    view.put = put
    for piece in pieces:
        view.output(*piece)
    if words:
        view.say(words)
    view.finish(RunResult(RunState.SUCCEEDED, 0, 1.0))
    return found


def test_what_no_newline_ended_stays_in_its_stream_and_glues_to_no_words() -> None:
    """Whether it is shown at once, as for the rank that reads the terminal, or at the end."""
    found = shown([(0, "out", b"last"), (1, "err", b"oops")])
    assert b"[0] last\n" == found[1]
    assert found[2].startswith(b"[1] oops\nmuster: ")
    found = shown([(0, "out", b"a\n"), (0, "err", b"name? ")], stdin=0, words="hello")
    assert (b"[0] a\n", True) == (found[1], found[2].startswith(b"[0] name? \nmuster: hello\nmuster: "))
    found = shown([(0, "err", b"e\n"), (0, "out", b"> ")], stdin=0, words="hello")
    assert (b"[0] > \n", True) == (found[1], found[2].startswith(b"[0] e\nmuster: hello\n"))
