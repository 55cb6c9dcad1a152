"""Secrets planted in a run, and searched for wherever they must not be: every file of the test, and command lines.

A test that takes the fixture `canaries` runs with them in the environment of muster. At its end no file below its
directory has one: run directories with logs, events, plans, traces and job records, reports, exported scripts, what
muster printed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

MARK = f"canary{token_hex(4)}"
"""What all values contain; another one in each process of tests."""

SECRETS = {
    # forwarded to hosts by name, and secret by name
    "HF_TOKEN": f"hf_{MARK}aaaaaaaaaaaaaaaaaaaa",
    "AWS_SECRET_ACCESS_KEY": f"{MARK}-key",
    "WANDB_API_KEY": f"{MARK}-wandb",
    # secret by its value
    "HF_ENDPOINT": f"https://ann:{MARK}@hub.example",
    # of a name that says nothing; given as `--env DATASET=…` would be
    "MUSTER_ENV": f"DATASET={MARK}-unknown",
}

RANK = b"\0LOCAL_WORLD_SIZE="
"""What the environment of a rank has, or of the process from which it is forked."""


def files_with(places: Iterable[Path], mark: str = MARK) -> list[str]:
    """Return the files below these directories that contain the mark, in their bytes or in their names."""
    found = []
    for path in (path for place in places for path in place.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        if mark in path.name or mark.encode() in path.read_bytes():
            found.append(str(path))
    return found


class Canaries:
    """Watches the processes of this machine, hosts of a lab included, until `check`."""

    def __init__(self, env: dict[str, str], folder: Path) -> None:
        self.folder, self._end = folder, threading.Event()
        env.update(SECRETS)
        self.on_command_lines: set[str] = set()
        self.reached = False
        """Whether a rank had one, so that there was something to find."""
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._end.wait(0.05):
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    words = Path("/proc", pid, "cmdline").read_bytes()
                    if MARK.encode() in words:
                        self.on_command_lines.add(words.replace(b"\0", b" ").decode(errors="replace"))
                    if not self.reached:
                        environ = Path("/proc", pid, "environ").read_bytes()
                        self.reached = RANK in environ and all(
                            value.partition("=")[2].encode() in environ for value in SECRETS.values()
                        )
                except OSError:  # it has exited
                    continue

    def stop(self) -> None:
        """Stop watching."""
        self._end.set()
        self._thread.join()

    def check(self) -> None:
        """Check that ranks had the secrets, and nobody else has them."""
        self.stop()
        assert self.reached, "no rank has the secrets"
        assert not self.on_command_lines, f"secrets on command lines: {sorted(self.on_command_lines)}"
        found = files_with([self.folder])
        assert not found, f"files with secrets: {found}"


@pytest.fixture
def canaries(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Canaries]:
    """Run the muster of this test, here or in the lab, with secrets in its environment, and search for them at the
    end."""
    owner: Any = request.getfixturevalue("there" if "there" in request.fixturenames else "muster")
    found = Canaries(owner.env, tmp_path)
    try:
        yield found
        found.check()
    finally:
        found.stop()
