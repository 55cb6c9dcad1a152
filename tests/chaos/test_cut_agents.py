"""Over ssh, the agent of a host is killed at each of its messages: the run ends, says so, and leaves nothing.

CI kills it at a few messages, MUSTER_FUZZ=long at each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lab_cluster import LabCluster
from population import everything, new
from waiting import until

from muster.lab import Lab

CUT_AGENT = Path(__file__).parents[1] / "cut_agent.py"

LONG = os.environ.get("MUSTER_FUZZ") == "long"

SCRIPT = """
import os, subprocess, sys, time
subprocess.Popen(["sleep", "1000"], env={}, start_new_session=True)
print("line of rank", os.environ["RANK"], flush=True)
time.sleep(0.3)
"""
"""A rank that leaves a process which only its ancestry shows."""

CHOSEN = ("n1 = detach 0", "n2 > facts 0", "n2 > ranks_started 0", "n1 > rank_exited 0", "n2 = bye 0")


class CutCluster(LabCluster):
    """muster in a lab, whose agents are killed at a message."""

    cut = ""

    @property
    def notes(self) -> Path:
        """The messages of the agents."""
        return self.folder / "notes"

    def argv(self, *words: str) -> list[str]:
        """The command line."""
        if words[0] != "run":
            return super().argv(*words)
        return [sys.executable, str(CUT_AGENT), str(self.notes), self.cut, "agent", *words]

    def play(self, cut: str) -> subprocess.CompletedProcess[str]:
        """Run muster, cut at this message."""
        self.cut = cut
        self.notes.unlink(missing_ok=True)
        words = ("-H", "n1,n2", "-g", "1", "--launcher", "exec", "--lease", "5s", "--grace", "2", "--no-code-check")
        done: Any = self.muster("run", *words, str(self.folder / "script.py"))
        return done  # type: ignore[no-any-return]


def check(there: CutCluster, cut: str) -> bool:
    """Cut a run, and check how it ends; return whether the message was reached."""
    living = there.lab.status()["hosts"]
    before, runs = everything(living), set(there.home.glob("runs/*"))
    done = there.play(cut)
    said = f"{cut}: {done.returncode}: {done.stdout}{done.stderr}"
    reached = cut in there.notes.read_text().splitlines()
    assert "Traceback" not in said, said
    assert done.returncode in ((0, 3, 125) if reached else (0,)), said
    made = [path for path in set(there.home.glob("runs/*")) - runs if (path / "outcome.json").exists()]
    for path in made:
        assert done.returncode == json.loads((path / "outcome.json").read_text())["code"], said
    assert made or done.returncode == 3, said
    if done.returncode:
        assert "error: " in said, said
    left: list[str] = []

    def gone() -> bool:
        left[:] = new(before, everything(living))
        return not left

    try:
        until(gone, "nothing is left")
    except AssertionError:
        raise AssertionError(f"{said}: left: {left}") from None
    return reached


@pytest.mark.parametrize("cut", [None] if LONG else CHOSEN)
def test_a_run_over_ssh_ends_at_whichever_message_an_agent_is_killed(lab: Lab, tmp_path: Path, cut: str | None) -> None:
    there = CutCluster(lab, tmp_path)
    (tmp_path / "script.py").write_text(SCRIPT)
    if cut is not None:
        assert check(there, cut)
        return
    whole = there.play("")
    assert whole.returncode == 0, whole.stderr
    wrong = []
    for one in there.notes.read_text().splitlines():
        try:
            check(there, one)
        except AssertionError as error:
            wrong.append(str(error))
    assert not wrong, "\n\n".join(wrong)
