"""Fixtures of all tests: a clean environment, and muster as a program."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Callable

import pytest
from canaries import canaries
from program import Muster

__all__ = ["canaries"]

pytest_plugins = ["muster.lab.testing"]

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"

# The tests may run with signals ignored (a background job of a script, nohup), which all programs would inherit.
# Handlers are not inherited.
for _number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # which Python ignores, and Popen resets
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else lambda *_: None)

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "USER", "SHELL", "TERM")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests by duration: long ones, those on the lab, quick ones.

    So no worker is still busy with a long test when the others are done. pytest-xdist (`--dist loadgroup`) keeps this
    order.
    """

    def turn(item: pytest.Item) -> int:
        if item.get_closest_marker("slow"):
            return 0
        if {"the_lab", "apart"} & set(getattr(item, "fixturenames", ())):
            return 1
        return 3 if "unit" in item.path.parts else 2

    items.sort(key=turn)
    for item in items:
        for fixture in {"apart", "on_session"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group(fixture))  # it is made once, and not by each worker


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A minimal environment: a MUSTER_HOME of its own, and no variables of the user who runs the tests."""
    found = {name: os.environ[name] for name in _KEPT if name in os.environ}
    found["MUSTER_HOME"] = str(tmp_path / "muster home")
    found["OMP_NUM_THREADS"] = "1"
    return found


@pytest.fixture
def muster(env: dict[str, str], tmp_path: Path) -> Muster:
    """The program, in a directory of its own."""
    return Muster(env, tmp_path)


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Path]:
    """Write a script to the directory of the test, and return its path."""

    def write(text: str, name: str = "script.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Compare a text with a file in tests/golden. `ACCEPT=1 pytest` updates the file; review and commit it."""

    def check(name: str, text: str, replace: dict[str, str] | None = None) -> None:
        for pattern, word in (replace or {}).items():
            text = re.sub(pattern, word, text)
        path = GOLDEN / name
        if os.environ.get("ACCEPT"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        expected = path.read_text() if path.exists() else ""
        assert expected == text, f"{path} differs; if the new text is right: ACCEPT=1 pytest {request.node.nodeid}"

    return check
