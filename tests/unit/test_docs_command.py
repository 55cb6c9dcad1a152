"""`muster docs`: the list of pages, a page, and a page that does not exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from muster.cli import call
from muster.cli.docs import pages
from muster.errors import InvalidRequest

DOCS = Path(__file__).parents[2] / "docs"


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What muster prints for these arguments."""
    assert 0 == call(list(words), {}, 0.0)
    return capsys.readouterr().out


def test_names_of_pages_are_unique() -> None:
    files = [path for path in DOCS.rglob("*.md") if path.parent.name != "reference"]
    assert sorted(path.stem for path in files) == list(pages())


def test_the_list_names_each_page_with_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "docs").splitlines()
    assert ["PAGE", "TITLE"] == lines[0].split()
    assert any(line.split(maxsplit=1) == ["hangs", "When a run hangs"] for line in lines)
    assert len(pages()) + 1 == len(lines)


@pytest.mark.parametrize(
    "words", [("docs", "hangs"), ("docs", "docs/hangs.md"), ("docs", "hangs.md"), ("help", "hangs")]
)
def test_a_page_is_printed(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    """Without comments, which are for the tests of the pages."""
    lines = [line for line in (DOCS / "hangs.md").read_text().splitlines() if line and not line.startswith("<!-- ")]
    assert lines == [line for line in printed(capsys, *words).splitlines() if line]


def test_help_of_a_command_comes_before_a_page_of_that_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Usage:\n  muster logs" in printed(capsys, "help", "logs")
    assert (DOCS / "guides" / "logs.md").read_text() == printed(capsys, "docs", "logs")


def test_an_unknown_page() -> None:
    with pytest.raises(InvalidRequest, match="no such page: hang\nhint: did you mean `muster docs hangs`"):
        call(["docs", "hang"], {}, 0.0)
    with pytest.raises(InvalidRequest, match="`muster docs` lists them"):
        call(["docs", "failures-of-everything"], {}, 0.0)
    with pytest.raises(InvalidRequest, match="prints one page, got: hangs top"):
        call(["docs", "hangs", "top"], {}, 0.0)
