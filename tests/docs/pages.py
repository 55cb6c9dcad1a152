"""Places where the shell blocks of a page run: this machine, a checkout, the lab. tools/session.py uses it too."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

from blocks import CHECKOUT, DESK, Block, Typed

from muster.lab import Lab

ROOT = Path(__file__).parents[2]
BIN = os.path.dirname(sys.executable)
WITHIN = 240.0
"""Seconds after which the commands of a block count as hanging."""


class Places:
    """A new directory with the examples for the commands of one page, shared by this machine and the lab."""

    def __init__(self, folder: Path, get_lab: Callable[[], Lab]):
        shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "home").mkdir()
        self.folder, self._get_lab = folder, get_lab
        self.lab: Lab | None = None
        """Set once something has run there."""
        self.env = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "MUSTER_HOME": str(folder / ".muster"),
            "LANG": "C.UTF-8",
            "VIRTUAL_ENV": sys.prefix,
            "CUDA_VISIBLE_DEVICES": "",  # the pages show a machine without GPUs
        }

    def run(self, where: str, script: str) -> str:
        """Return the output of a bash script run there, including markers."""
        argv = ["bash", "-c", script]
        if where in (DESK, CHECKOUT):
            # a HOME of its own: no file of the user is read or written
            env = {**self.env, "HOME": str(self.folder / "home"), "USER": "ann"}
            cwd = self.folder if where == DESK else ROOT
            options: dict[str, Any] = {
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "text": True,
                "start_new_session": True,
            }
            with subprocess.Popen(argv, env=env, cwd=cwd, **options) as process:
                try:
                    said, _ = process.communicate(timeout=WITHIN)
                except BaseException:
                    os.killpg(process.pid, signal.SIGTERM)  # including muster, which ends its ranks
                    raise
            return self._of_ann(said)
        self.lab = self._get_lab()
        return self._of_ann(self.lab.run(where, argv, env=self.env, cwd=str(self.folder), timeout=WITHIN).stdout)

    def clear(self) -> None:
        """Kill processes that a failed page left."""
        self.run(DESK, "for run in $(muster ps -a | grep -w running | cut -d ' ' -f 1); do muster kill $run; done")
        self.run(DESK, "muster lab down")
        if self.lab is not None:
            self.lab.run("head", ["scancel", "--user=root"])

    def _of_ann(self, text: str) -> str:
        """Replace the names of this machine and its directories by those that the pages use."""
        text = re.sub(rf"{re.escape(BIN)}/python[\d.]*", "/home/ann/venv/bin/python", text)
        text = text.replace(str(self.folder), "/home/ann").replace(str(ROOT), "/home/ann/muster")
        return re.sub(rf"\b{re.escape(os.uname().nodename)}\b", "desk", text)


def stretches(block: Block) -> Iterator[tuple[str, tuple[Typed, ...]]]:
    """Return sequences of commands that run in the same place."""
    commands: list[Typed] = []
    for typed in block.commands:
        if commands and commands[-1].where != typed.where:
            yield commands[0].where, tuple(commands)
            commands = []
        commands.append(typed)
    if commands:
        yield commands[0].where, tuple(commands)
