"""The guides: each command in them is run, in order, and has to say what the page shows. See blocks.py."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blocks import CHECKOUT, DESK, MARK, Block, Typed, blocks, make_file, shell, wrong

from muster.lab import Lab

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GUIDES = sorted(path.stem for path in (DOCS / "guides").glob("*.md"))
BIN = os.path.dirname(sys.executable)

MOST_SKIPPED = 6
"""So many blocks of all guides may say that they are not run."""


class Places:
    """Where the commands of one page run: a folder with the examples, seen by this machine and by the lab."""

    def __init__(self, folder: Path, get_lab: Callable[[], Lab]):
        self.folder, self._get_lab = folder, get_lab
        self.env = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "MUSTER_HOME": str(folder / ".muster"),
            "LANG": "C.UTF-8",
            "VIRTUAL_ENV": sys.prefix,
            "CUDA_VISIBLE_DEVICES": "",  # the pages show a machine without GPUs
        }

    def run(self, where: str, script: str) -> str:
        """What a script for bash says there, marks and all."""
        argv = ["bash", "-c", script]
        if where in (DESK, CHECKOUT):
            # a HOME of its own: nothing of whoever runs the tests is read or written
            env = {**self.env, "HOME": str(self.folder / "home"), "USER": "ann"}
            cwd = self.folder if where == DESK else ROOT
            done = subprocess.run(
                argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=240
            )
            return self._of_ann(done.stdout)
        return self._of_ann(self._get_lab().run(where, argv, env=self.env, cwd=str(self.folder), timeout=240).stdout)

    def _of_ann(self, text: str) -> str:
        """The same with the names that the pages use for this machine and its folders."""
        text = re.sub(rf"{re.escape(BIN)}/python[\d.]*", "/home/ann/venv/bin/python", text)
        text = text.replace(str(self.folder), "/home/ann").replace(str(ROOT), "/home/ann/muster")
        return re.sub(rf"\b{re.escape(os.uname().nodename)}\b", "desk", text)


@pytest.fixture
def places(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Places]:
    """A fresh folder; the lab is brought up when the first command wants it."""
    folder = tmp_path / "ann"
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "home").mkdir()
    made = Places(folder, lambda: request.getfixturevalue("lab"))
    # `muster lab` of a page: not the one that somebody may use on this machine
    made.env["MUSTER_LAB_DIR"] = tempfile.mkdtemp(prefix="muster-lab-of-a-guide-", dir="/var/tmp")
    yield made
    made.run(DESK, "muster lab down >/dev/null; muster ps | grep -E 'running|unknown' && muster kill last")
    shutil.rmtree(made.env["MUSTER_LAB_DIR"], ignore_errors=True)


def stretches(block: Block) -> Iterator[tuple[str, tuple[Typed, ...]]]:
    """The commands of a block that follow each other in one place."""
    commands: list[Typed] = []
    for typed in block.commands:
        if commands and commands[-1].where != typed.where:
            yield commands[0].where, tuple(commands)
            commands = []
        commands.append(typed)
    if commands:
        yield commands[0].where, tuple(commands)


@pytest.mark.parametrize("guide", GUIDES)
def test_what_a_guide_shows_is_so(guide: str, places: Places):
    page = DOCS / "guides" / f"{guide}.md"
    found = blocks(page.read_text())
    for block in found:
        for typed in block.commands:
            make_file(typed, places.folder)
        for where, commands in stretches(block):
            problem = wrong(commands, places.run(where, shell(commands)))
            assert not problem, f"{page.relative_to(ROOT)}, block at line {block.line}: {problem}"
    assert any(block.commands for block in found), "a guide without a command that is run"


def test_few_blocks_are_not_run():
    skipped = [
        (guide, block.line)
        for guide in GUIDES
        for block in blocks((DOCS / "guides" / f"{guide}.md").read_text())
        if block.skipped
    ]
    assert len(skipped) <= MOST_SKIPPED, skipped


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_is_short_and_begins_with_a_table(guide: str):
    """Other fences than those that are run, or shown as excerpts, would hide commands from the tests."""
    text = (DOCS / "guides" / f"{guide}.md").read_text()
    lines = text.splitlines()
    assert 40 <= len(lines) <= 120
    assert MARK not in text
    head = "\n".join(lines[:16])
    assert "| what you type today | what you type here |" in head or guide in NO_TODAY
    kinds = {line.strip()[3:] for line in lines if line.strip().startswith("```")} - {""}
    assert kinds <= {"console", "text", "python"}


NO_TODAY = ("adding-a-place", "adding-a-scheduler")
"""Guides for those who work on muster: there is nothing that they type today."""
