"""An agent is killed at each of its messages: the run ends, says so, and leaves nothing.

CI kills it at a few messages of a run whose ranks are started by the agent, once with its guard; MUSTER_FUZZ=long at
each, also if the ranks are forked.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import Muster
from waiting import until

CUT_AGENT = Path(__file__).parents[1] / "cut_agent.py"

HOST = os.uname().nodename

LONG = os.environ.get("MUSTER_FUZZ") == "long"

SCRIPT = """
import os, subprocess, sys
import torch
subprocess.Popen(["sleep", sys.argv[1]], env={}, start_new_session=True)
print("line of rank", os.environ["RANK"], flush=True)
"""
"""A rank that leaves a process which only its ancestry shows."""


class Cuts:
    """Runs, each of which is cut at another message."""

    def __init__(self, muster: Muster, words: list[str], victims: str) -> None:
        self.muster, self.words, self.victims = muster, words, victims
        self.notes = muster.cwd / "notes"
        # its length is a part of the names of sockets
        self.scratch = Path(tempfile.mkdtemp(prefix="cut-", dir="/var/tmp"))
        self.length = f"1000.{os.getpid()}{os.urandom(2).hex().translate(str.maketrans('abcdef', '123456'))}"
        """Of the sleep of what ranks leave; it occurs in no other process."""

    def run(self, cut: str) -> subprocess.CompletedProcess[str]:
        """Run muster, whose agent is killed at this message; at none, if it is empty."""
        self.notes.unlink(missing_ok=True)
        shutil.rmtree(self.muster.home, ignore_errors=True)
        words = [
            sys.executable,
            str(CUT_AGENT),
            str(self.notes),
            f"{HOST} {cut}",
            self.victims,
            "run",
            *self.words,
            self.length,
        ]
        env = {**self.muster.env, "TMPDIR": str(self.scratch), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.run(
            words, env=env, cwd=self.muster.cwd, text=True, timeout=120, capture_output=True, stdin=subprocess.DEVNULL
        )

    def left(self) -> list[str]:
        """Return the processes and directories that a run has left."""
        found = []
        home = b"MUSTER_HOME=" + os.fsencode(self.muster.home)
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if home in environ or (self.length.encode() in words and b"sleep" in words):
                found.append(f"{pid} {words!r}")
        ids = [path.name for path in self.muster.home.glob("runs/*")]
        for base in ("/tmp", "/var/tmp", "/dev/shm", str(self.scratch)):
            for path in Path(base).glob("muster-????????/run"):
                try:
                    found += [str(path)] if path.read_text() in ids else []
                except OSError:
                    continue
        return found

    def check(self, cut: str) -> bool:
        """Cut a run, and check how it ends; return whether the message was reached."""
        done = self.run(cut)
        said = f"{cut}: {done.returncode}: {done.stdout}{done.stderr}"
        assert "Traceback" not in said, said
        reached = f"{HOST} {cut}" in self.notes.read_text().splitlines()
        assert done.returncode in ((125, 3, 0) if reached else (0,)), said
        outcomes = list(self.muster.home.glob("runs/*/outcome.json"))
        if outcomes:
            assert done.returncode == json.loads(outcomes[0].read_text())["code"], said
        else:
            assert done.returncode == 3, said
        if done.returncode:
            assert "error: " in said, said
        if self.victims == "both" and reached:
            self.muster("clean", env={**self.muster.env, "TMPDIR": str(self.scratch)})
        until(lambda: not self.left(), f"nothing is left: {said}")
        return reached


@pytest.fixture
def cuts(muster: Muster, request: pytest.FixtureRequest) -> Iterator[Cuts]:
    words, victims = request.param
    made = Cuts(muster, [str(muster.cwd / word) if word == "script.py" else word for word in words], victims)
    (muster.cwd / "script.py").write_text(SCRIPT if "fork" in words else SCRIPT.replace("import torch\n", ""))
    yield made
    shutil.rmtree(made.scratch)


FORKED = ["-g", "2", "--launcher", "fork", "script.py"]
STARTED = ["-g", "1", "--launcher", "exec", "script.py"]

CHOSEN = {
    "agent": ("= configure 0", "> ranks_started 0", "> rank_exited 0"),
    "both": ("> rank_exited 0",),
}
"""The messages at which CI kills."""


@pytest.mark.parametrize(
    "cuts",
    [(STARTED, "agent"), (STARTED, "both"), *([(FORKED, "agent"), (FORKED, "both")] if LONG else [])],
    ids=lambda one: " ".join((one[0][3], one[1])),
    indirect=True,
)
def test_a_run_ends_at_whichever_message_its_agent_is_killed(cuts: Cuts) -> None:
    chosen = CHOSEN[cuts.victims]
    if LONG:
        whole = cuts.run("")
        assert whole.returncode == 0, whole.stderr
        assert not cuts.left()
        chosen = tuple(line.partition(" ")[2] for line in cuts.notes.read_text().splitlines())
    for cut in chosen:
        reached = cuts.check(cut)
        assert reached or LONG, cut


ALIVE = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "1000"], env={}, start_new_session=True)
print("child", child.pid, flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
print("child ended" if child.poll() is not None else "child lives", flush=True)
"""


def test_clean_leaves_the_processes_of_a_run_that_is_alive(muster: Muster) -> None:
    (muster.cwd / "alive.py").write_text(ALIVE)
    running = muster.start("run", "-g", "1", "--launcher", "exec", "alive.py")
    until(lambda: list(muster.home.glob("runs/*/attempt_0/rank_00000.out")), "it has a log")
    until(lambda: b"child" in muster.log(0), "the child is there")
    cleaned = muster("clean")  # of other runs on this machine, there may be something
    assert muster.newest().name not in cleaned.stdout and cleaned.returncode == 0, cleaned.stdout + cleaned.stderr
    (muster.cwd / "go").touch()
    shown, said = running.communicate(timeout=60)
    assert running.returncode == 0 and "child lives" in shown, shown + said
