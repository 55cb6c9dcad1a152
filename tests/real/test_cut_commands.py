"""`muster run`, cut at system calls that change files: commands then find a run, or none, and say so in a sentence.

CI cuts it at a few calls, MUSTER_FUZZ=long at each. `tests/fuzz/test_cut_writers.py` cuts the functions that write.
"""

from __future__ import annotations

import os
import shutil
import sys

import pytest
from cutting import POSSIBLE, Ended, How, run_cut
from program import Muster

pytestmark = pytest.mark.skipif(not POSSIBLE, reason="system calls are counted on x86-64 only")

COMMANDS = (["ps", "-a"], ["wait", "last"], ["show", "last"], ["logs", "last"], ["clean", "--dry-run"])


def cut(muster: Muster, words: list[str], at: int = -1, how: How = How.BEFORE) -> tuple[Ended, str]:
    """Run muster, cut at this call; return what it has written, too."""
    shutil.rmtree(muster.home, ignore_errors=True)
    muster.home.mkdir()
    shown = muster.home.parent / "shown"
    shown.unlink(missing_ok=True)

    def start() -> None:
        for number, path in enumerate((os.devnull, str(shown), str(shown))):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
        os.execve(sys.executable, muster.argv(*words), muster.env)

    ended = run_cut(start, str(muster.home), at, how)
    return ended, shown.read_text()


@pytest.mark.parametrize("words", [["run", "-g", "1", "--", "true"], ["run", "-d", "-g", "1", "--", "true"]])
def test_commands_find_a_run_or_none_wherever_muster_run_is_cut(muster: Muster, words: list[str]) -> None:
    whole, told = cut(muster, words)
    assert whole.status == 0, told
    job = whole.calls.index("rename") - 2
    """The call that creates job.json."""
    chosen = [(job, How.FULL), (job + 2, How.FULL), (job + 4, How.BEFORE)]
    if os.environ.get("MUSTER_FUZZ") == "long":
        chosen = [(at, how) for at in range(len(whole.calls)) for how in How]
    for at, how in chosen:
        ended, told = cut(muster, words, at, how)
        assert "Traceback" not in told, f"{at} {how}: {ended}: {told}"
        if how is How.FULL and at == job:
            assert ended.status == 2 and "No space left on device" in told
            assert not list((muster.home / "runs").iterdir()), "nothing is left"
        known = list(muster.home.glob("runs/*/job.json"))
        for command in COMMANDS if known else COMMANDS[:1]:
            done = muster(*command)
            said = done.stdout + done.stderr
            assert "Traceback" not in said and (said.strip() or command[0] == "logs"), f"{at} {how}: {command}: {said}"
