"""The commands of the pages: each is run, in order, and must print what the page shows (blocks.py, recordings.py)."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from blocks import MARK, blocks, make_file, shell, wrong
from pages import ROOT, Places, stretches
from recordings import COLUMNS, draw, expanded, session, shown

DOCS = ROOT / "docs"
GUIDES = sorted(path.stem for path in (DOCS / "guides").glob("*.md"))
TASKS = (
    "install",
    "first-run",
    "hangs",
    "killed",
    "top",
    "folded-logs",
    "recover",
    "sweeps",
    "roles",
    "python",
    "notifications",
    "hold",
)
"""Pages other than guides whose commands are run."""
PAGES = [
    *(ROOT / name for name in ("README.md", "SKILL.md")),
    *(DOCS / f"{name}.md" for name in TASKS),
    *(DOCS / "guides" / f"{name}.md" for name in GUIDES),
]
RECORDINGS = shown(ROOT / "README.md")
OF_OTHERS = ("from-ray", "from-ray-tasks", "from-accelerate", "from-deepspeed", "from-torchrunx")
"""Pages that run the programs of other people, which take long: `make lab-test`."""

MOST_SKIPPED = 6
"""Maximum number of blocks of all guides that are not run."""


@pytest.fixture
def places(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Places]:
    """A new directory for a page; the lab is started by the first command that needs it."""
    # not in /tmp, which each host of a lab has for itself; only root has a lab
    top = Path(tempfile.mkdtemp(prefix="muster-guide-", dir="/var/lib") if os.geteuid() == 0 else tmp_path)
    top.chmod(0o755)  # munge requires a socket directory that all users can reach
    made = Places(top / "ann", lambda: request.getfixturevalue("lab"))
    # for `muster lab` on a page: not the lab that a user may have on this machine
    made.env["MUSTER_LAB_DIR"] = str(top / "lab")
    yield made
    made.clear()
    shutil.rmtree(top, ignore_errors=True)


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.stem, marks=[pytest.mark.lab] if page.stem in OF_OTHERS else []) for page in PAGES],
)
def test_pages_show_what_happens(page: Path, places: Places):
    found = blocks(expanded(page))
    for block in found:
        for typed in block.commands:
            make_file(typed, places.folder)
        for where, commands in stretches(block):
            problem = wrong(commands, places.run(where, shell(commands)))
            assert not problem, f"{page.relative_to(ROOT)}, block at line {block.line}: {problem}"
    assert any(block.commands for block in found), "a page without a command that is run"


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_a_recording_is_drawn_from_its_session_and_fits_a_phone(recording: Path):
    svg = recording.read_text()
    found = session(svg)
    assert found is not None
    assert draw(*found) == svg, "python tools/session.py, and commit it"
    rows: dict[str, int] = {}
    for left, row, text in re.findall(r'<text x="([\d.]+)" y="(\d+)"[^>]*>([^<]*)<', svg):
        rows[row] = round((float(left) - 16) / 8.4) + len(unescape(text))
    assert rows and max(rows.values()) <= COLUMNS


def test_few_blocks_are_not_run():
    skipped = [(page.stem, block.line) for page in PAGES for block in blocks(page.read_text()) if block.skipped]
    assert len(skipped) <= MOST_SKIPPED, skipped


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_is_short_and_begins_with_a_table(guide: str):
    """Code fences other than those that are run, or shown as excerpts, would hide commands from the tests."""
    text = (DOCS / "guides" / f"{guide}.md").read_text()
    lines = text.splitlines()
    assert 40 <= len(lines) <= 120
    assert MARK not in text
    head = "\n".join(lines[:16])
    assert "| what you type today | what you type here |" in head or guide in NO_TODAY
    kinds = {line.strip()[3:] for line in lines if line.strip().startswith("```")} - {""}
    assert kinds <= {"console", "text", "python"}


NO_TODAY = ("adding-a-transport",)
"""Guides for developers of muster, which have no commands to run."""
