"""Recordings: what is drawn can be read back, and is as wide as a phone allows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from recordings import COLUMNS, draw, expanded, session, shown

LINES = "$ echo 'a <b> & c'\na <b> & c\n[3] two  spaces\n\n    indented\n"


def texts(svg: str) -> list[str]:
    return re.findall(r"<text [^>]*>([^<]*)</text>", svg)


def test_a_session_is_read_back_as_it_was_drawn():
    svg = draw("A <title>", LINES)
    assert ("A <title>", LINES) == session(svg)
    assert "a &lt;b&gt; &amp; c" in texts(svg)
    assert "two  spaces" in texts(svg)
    assert draw(*session(svg)) == svg


@pytest.mark.parametrize(
    ("line", "pieces"),
    [
        ("a" * COLUMNS, ["a" * COLUMNS]),
        ("a" * (COLUMNS + 1), ["a" * COLUMNS, "a"]),
        (f"{'a' * 50} {'b' * 9}", [f"{'a' * 50} {'b' * 9}"]),
        (f"{'a' * 50} {'b' * 10}", ["a" * 50, "b" * 10]),
    ],
)
def test_long_lines_are_wrapped_at_spaces_where_there_are_some(line: str, pieces: list[str]):
    assert pieces == texts(draw("a line", f"{line}\n"))


def test_a_page_is_read_with_its_recordings(tmp_path: Path):
    (tmp_path / "one.svg").write_text(draw("one", "$ true\n"))
    (tmp_path / "other.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"></svg>')
    page = tmp_path / "page.md"
    page.write_text("before\n![one](one.svg)\n![other](other.svg)\n")
    assert [tmp_path / "one.svg"] == shown(page)
    assert "before\n\n```console\n$ true\n```\n\n![other](other.svg)\n" == expanded(page)
