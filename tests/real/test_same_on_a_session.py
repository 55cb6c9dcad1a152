"""A rank on a session is `python SCRIPT`, too: its interpreter was started for no script (`hook/any_script.py`).

Cases of `test_same_as_python.py`, one after another on one session.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import Muster
from test_same_as_python import CASES, Both, compare

KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "USER", "SHELL", "TERM")

CUTS = {
    "itself": r"process b.*\n",
}
"""What differs: the words in /proc/PID/cmdline may have spaces between them."""

SAME_ENV = [name for name, case in CASES.items() if not case.env and case.forks and name not in CUTS]
SOME = [*CUTS, *SAME_ENV[::8]]
"""Some of the cases that need no other interpreter than that of the session."""


@pytest.fixture(scope="module")
def on_session() -> Iterator[Both]:
    """Both ways to run, of which the second one is on a session with one rank."""
    folder = Path(tempfile.mkdtemp(prefix="same"))
    env = {name: os.environ[name] for name in KEPT if name in os.environ}
    env.update(MUSTER_HOME=str(folder / "muster home"), OMP_NUM_THREADS="1")
    made = Both(folder, Muster(env, folder))
    held = made.muster("hold", "-g", "1", "--name", "same", env=made.env)
    assert held.returncode == 0, held.stderr
    yield made
    released = made.muster("kill", "--all", "--yes", env=made.env)
    assert released.returncode == 0, released.stderr
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("name", SOME)
def test_a_rank_on_a_session_is_what_python_is(name: str, on_session: Both) -> None:
    for path in (on_session.work, on_session.folder / "tmp"):
        shutil.rmtree(path)
        path.mkdir()
    case = CASES[name]
    compare(on_session, case._replace(cut="|".join(filter(None, (case.cut, CUTS.get(name, ""))))), "--on", "same")
