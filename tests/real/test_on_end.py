"""`--on-end` of real runs: in the foreground, detached, and killed together with muster."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from waiting import until

TELL = "cat >>told; echo >>told"


@pytest.mark.parametrize("how", [(), ("-d",)], ids=["foreground", "detached"])
def test_the_end_is_told_once(muster: Any, tmp_path: Path, how: tuple[str, ...]) -> None:
    started = muster("run", *how, "-g", "2", "--on-end", TELL, "--", "sh", "-c", "exit $RANK")
    assert started.returncode == (0 if how else 1), started.stderr
    assert 1 == muster("wait").returncode
    until(lambda: shown(muster).startswith("on end   succeeded"), "the command has exited")
    told = json.loads((tmp_path / "told").read_text())
    assert ("failed", 1, 2) == (told["status"], told["exit_code"], told["ranks"])
    assert "rank 1 failed first" in told["verdict"]


def shown(muster: Any) -> str:
    """The last line of `muster show`."""
    return muster("show").stdout.splitlines()[-1]


def test_a_run_that_is_killed_with_muster_is_told_by_who_notices(muster: Any, tmp_path: Path) -> None:
    with muster.start("run", "--on-end", TELL, "--", "sh", "-c", "echo ready; exec sleep 600") as process:
        assert process.stdout is not None
        assert "ready" in process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    until(lambda: "lost" in muster("ps").stdout, "it is lost")
    until(lambda: shown(muster).startswith("on end   succeeded"), "the command has exited")
    assert "lost" == json.loads((tmp_path / "told").read_text())["status"]


def test_a_failing_command_does_not_change_the_exit_status(muster: Any) -> None:
    done = muster("run", "--on-end", "echo cannot connect; exit 7", "--", "true")
    assert 0 == done.returncode
    assert "the --on-end command exited with status 7" in done.stderr
