"""Detection whether two machines see the same directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from muster.agent import code_tree

SERVED, MINE, YOURS = "", "boot-1 0:42", "boot-2 0:42"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([7, SERVED], [7, SERVED], True),
        ([7, SERVED], [8, SERVED], False),
        ([7, MINE], [7, MINE], True),
        ([7, MINE], [7, YOURS], False),  # two new disks
        ([7, MINE], [7, SERVED], True),  # one machine exports it to the other
        ([7, SERVED], [], False),
        ([], [], False),
    ],
)
def test_same_place(one: list[object], other: list[object], same: bool) -> None:
    assert same == code_tree.same_place(one, other) == code_tree.same_place(other, one)


def test_a_place_stays_the_same_while_files_come_and_go(tmp_path: Path) -> None:
    before = code_tree.place(str(tmp_path))
    (tmp_path / "new").mkdir()
    assert before == code_tree.place(str(tmp_path))
    assert not code_tree.same_place(before, code_tree.place(str(tmp_path / "new")))
    assert [] == code_tree.place(str(tmp_path / "absent"))


def test_no_file_of_the_same_folder_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.py").write_text("one")
    top, place = str(tmp_path), code_tree.place(str(tmp_path))
    there = code_tree.entries(top, ["a.py"])
    (tmp_path / "a.py").write_text("other")
    assert ["0"] == list(code_tree.compare(top, there)) == list(code_tree.compare(top, there, [place[0] + 1, place[1]]))
    monkeypatch.setattr(code_tree, "identity", lambda path: pytest.fail("lstat"))
    assert {} == code_tree.compare(top, there, place)
