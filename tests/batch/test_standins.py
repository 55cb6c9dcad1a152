"""Batch systems that cannot be had here: runs through stand-ins of their programs (tests/toys/batch_standin.py)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from waiting import until

TOYS = Path(__file__).parents[1] / "toys"

SCRIPT = """
import os, pathlib, time
print("rank", *(os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MINE")), flush=True)
while not pathlib.Path("go on").exists():
    time.sleep(0.05)
"""


class System(NamedTuple):
    """A batch system."""

    name: str
    programs: tuple[str, ...]
    submit: tuple[str, ...]
    """The command that a user types to submit a script on two nodes."""
    pending: str
    """What muster says about a job that waits."""


SYSTEMS = {
    "pbs": System(
        "pbs",
        ("qsub", "qselect", "qstat", "qdel", "pbsnodes", "pbs_tmrsh"),
        ("qsub", "-C", "", "-N", "own", "-S", "/bin/bash", "-o", "own.out", "-l", "select=2:ncpus=1:mpiprocs=1"),
        "Insufficient amount of resource",
    ),
    "lsf": System(
        "lsf",
        ("bsub", "bjobs", "bkill", "bhosts", "blaunch"),
        ("bsub", "-J", "own", "-o", "own.out", "-n", "2", "-R", "span[ptile=1]", "bash"),
        "Job slot limit reached",
    ),
    "flux": System(
        "flux",
        ("flux",),
        ("flux", "batch", "--job-name=own", "--output=own.out", "--nodes=2", "--nslots=2", "--cores-per-slot=1"),
        "waiting for free resources",
    ),
}


class Batch:
    """muster where such a system is installed, and its queue."""

    def __init__(self, root: Path, env: dict[str, str], system: System):
        self.root, self.system, self.queue = root, system, root / "queue"
        programs = root / "bin"
        programs.mkdir()
        self.queue.mkdir()
        for name in (*system.programs, "ssh"):
            (programs / name).symlink_to(TOYS / "batch_standin.py")
        path = f"{programs}:{Path(sys.executable).parent}:{env['PATH']}"
        self.env = {**env, "BATCH_STANDIN": str(self.queue), "PATH": path, "MINE": "mine"}
        (root / "waits.py").write_text(SCRIPT)
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start `muster` without waiting."""
        pipe = subprocess.PIPE
        argv = [sys.executable, "-m", "muster", *words]
        made = subprocess.Popen(
            argv, env=self.env, cwd=self.root, text=True, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
        )
        self.started.append(made)
        return made

    def muster(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `muster` to completion."""
        process = self.start(*words)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def submit(self, *words: str) -> str:
        """Submit a run of two nodes with two ranks each, and return its ID."""
        done = self.muster("run", f"--{self.system.name}", "-d", "-N", "2", "-g", "2", *words, "waits.py")
        assert 0 == done.returncode, done.stderr
        return done.stdout.strip()

    def state(self, run: str) -> str:
        """Return the state that `ps` shows for a run."""
        records = json.loads(self.muster("ps", "--json", "--all").stdout)
        return next(str(record["state"]) for record in records if record["id"] == run)

    def printed(self, run: str) -> bool:
        """Return whether all four ranks of a run have printed something."""
        logs = list(self.root.glob(f"**/runs/{run}/attempt_0/rank_0000?.out"))
        return len(logs) == 4 and all(path.read_text() for path in logs)

    def jobs(self) -> list[dict[str, object]]:
        """Return the jobs of the system."""
        return [
            json.loads(path.read_text()) for path in sorted(self.queue.glob("*.json"), key=lambda one: int(one.stem))
        ]


@pytest.fixture(params=SYSTEMS)
def batch(tmp_path: Path, env: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Batch]:
    made = Batch(tmp_path, env, SYSTEMS[request.param])
    yield made
    for process in made.started:
        process.kill()
        process.communicate()
    for job in made.jobs():
        if job["state"] == "running" and isinstance(job.get("pid"), int):
            with suppress(ProcessLookupError):
                os.killpg(int(str(job["pid"])), signal.SIGKILL)


def test_runs(batch: Batch) -> None:
    option = f"--{batch.system.name}"
    # it runs on two nodes, and the terminal shows it
    first = batch.start("run", option, "-N", "2", "-g", "2", "--name", "first", "--launcher", "exec", "waits.py")
    until(lambda: list(batch.root.glob("**/attempt_0/rank_00003.out")), "it runs", 150)
    (batch.root / "go on").touch()
    out, err = first.communicate(timeout=120)
    assert 0 == first.returncode, out + err
    assert [f"[{rank}] rank {rank} 4 {rank % 2} mine" for rank in range(4)] == sorted(out.splitlines()), err
    (batch.root / "go on").unlink()
    # where others could see the environment of the job, it is not passed to the scheduler
    assert (batch.system.name == "pbs") == ("mine" not in (batch.queue / "1.json").read_text())
    # one that waits says why, and is removed
    (batch.queue / "hold").touch()
    waiting = batch.submit()
    assert "pending" == batch.state(waiting)
    assert batch.system.pending in batch.muster("show", waiting).stdout
    done = batch.muster("kill", waiting)
    assert (0, f"{waiting}: removed from the queue\n") == (done.returncode, done.stdout), done.stderr
    assert (137, "killed") == (batch.muster("wait", waiting).returncode, batch.state(waiting))
    (batch.queue / "hold").unlink()
    # one that runs is ended by muster, and one by the batch system
    for how in ("muster", "system"):
        run = batch.submit("--launcher", "exec")
        until(lambda run=run: batch.printed(run), "all ranks run", 150)  # type: ignore[misc]
        assert "running" == batch.state(run)
        if how == "muster":
            assert f"{run}: terminated\n" == batch.muster("kill", run).stdout
        else:
            number = str(batch.jobs()[-1]["number"])
            subprocess.run([*cancel_of(batch), number], env=batch.env, check=True)
        assert (137, "killed") == (batch.muster("wait", run).returncode, batch.state(run))
        assert "rank 3 4" in batch.muster("logs", run, "--rank", "3").stdout


def cancel_of(batch: Batch) -> list[str]:
    """Return the command that ends a job."""
    return {"pbs": ["qdel"], "lsf": ["bkill"], "flux": ["flux", "cancel"]}[batch.system.name]


def test_inside_a_job_and_its_nodes(batch: Batch) -> None:
    rank = "sh -c 'echo in a job of $WORLD_SIZE'"
    line = f"cd {batch.root}; {sys.executable} -m muster run --{batch.system.name} -g 1 -- {rank}"
    (batch.root / "own.sh").write_text(line)
    subprocess.run([*batch.system.submit, "own.sh"], env=batch.env, cwd=batch.root, check=True)
    until(lambda: batch.jobs()[0]["state"] == "done", "the job is over", 150)
    said = (batch.root / "own.out").read_text()
    assert 2 == said.count("in a job of 2"), said
    nodes = batch.muster("nodes").stdout
    assert "n[1-2]" in nodes and "3 of 4" in nodes, nodes
