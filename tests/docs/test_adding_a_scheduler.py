"""A scheduler added by following docs/adding-a-scheduler.md works: jobs wait, are killed, and end."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import until

ROOT = Path(__file__).parents[2]

WAITS = """
import os, pathlib, time
print(f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} in job {os.environ['TOYQ_JOB']}", flush=True)
while not pathlib.Path("go on").exists():
    time.sleep(0.05)
"""


class Toy:
    """muster with the toy scheduler in its table, and the toy queue."""

    def __init__(self, root: Path, env: dict[str, str]):
        self.root, self.started = root, list[subprocess.Popen[str]]()
        page = (ROOT / "docs" / "adding-a-scheduler.md").read_text()
        record, options, row = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        copy = root / "src" / "muster"
        shutil.copytree(ROOT / "src" / "muster", copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / "schedulers" / "toy.py").write_text(record)
        (copy / "schedulers" / "toy_options.py").write_text(options)
        table = copy / "schedulers" / "__init__.py"
        old = table.read_text()
        table.write_text(old.replace('    "slurm": ', f'    {row}    "slurm": ', 1))
        assert old != table.read_text()
        path = f"{ROOT / 'tests' / 'toys'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.env = {**env, "PYTHONPATH": str(copy.parent), "TOYQ": str(root / "toyq"), "PATH": path}
        (root / "waits.py").write_text(WAITS)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start `muster` without waiting."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        argv = [sys.executable, "-m", "muster", *words]
        self.started.append(subprocess.Popen(argv, env=self.env, cwd=self.root, text=True, **pipes))  # type: ignore
        return self.started[-1]

    def muster(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `muster` to completion."""
        process = self.start(*words)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def detached(self, *words: str) -> str:
        """Submit a run, and return its ID."""
        done = self.muster("run", "--scheduler", "toy", "-d", *words)
        assert 0 == done.returncode, done.stderr
        return done.stdout.strip()

    def state(self, run: str) -> str:
        """Return the state that `ps` shows for a run."""
        records = json.loads(self.muster("ps", "--json", "--all").stdout)
        return next(str(record["state"]) for record in records if record["id"] == run)

    def printed(self, run: str) -> str:
        """Return the output of rank 0 of a run."""
        return "".join(path.read_text() for path in self.root.glob(f"**/runs/{run}/attempt_0/rank_00000.out"))

    def queue(self) -> dict[str, tuple[str, str]]:
        """Return state and name of the jobs by ID."""
        out = subprocess.run(["toyq", "list"], env=self.env, capture_output=True, text=True, check=True).stdout
        return {job: (state, name) for job, state, name in (line.split("|") for line in out.splitlines())}

    def kill(self, run: str, job: str) -> None:
        """Kill a run with muster."""
        assert f"{run}: terminated\n" == self.muster("kill", run).stdout

    def cancel(self, run: str, job: str) -> None:
        """Cancel a run's job with the scheduler."""
        subprocess.run(["toyq", "cancel", job], env=self.env, check=True)


@pytest.fixture
def toy(tmp_path: Path, env: dict[str, str]):
    made = Toy(tmp_path, env)
    yield made
    for job, (state, _) in made.queue().items():
        if state in ("QUEUED", "ACTIVE"):
            subprocess.run(["toyq", "cancel", job], env=made.env, check=True)
    for process in made.started:
        process.kill()
        process.communicate()


def test_the_page_is_right(toy: Toy) -> None:
    # it runs, and the terminal shows it
    first = toy.start("run", "--scheduler", "toy", "--label", "first", "-g", "2", "waits.py")
    until(lambda: toy.queue().get("1") == ("ACTIVE", "first"), "the first job runs")
    # another one waits for it, and is killed meanwhile; a third one is not
    second, third = toy.detached("-g", "1", "waits.py"), toy.detached("--", "sh", "-c", "exit 7")
    assert ["pending"] * 2 == [toy.state(second), toy.state(third)]
    done = toy.muster("kill", second)
    assert (0, f"{second}: removed from the queue\n") == (done.returncode, done.stdout), done.stderr
    assert (137, "killed") == (toy.muster("wait", second).returncode, toy.state(second))
    # the first one succeeds, and the third starts, whose rank fails
    (toy.root / "go on").touch()
    out, err = first.communicate(timeout=120)
    assert 0 == first.returncode, err
    assert ["[0] rank 0 of 2 in job 1", "[1] rank 1 of 2 in job 1"] == sorted(out.splitlines())
    assert "submitted to the toy queue as job 1" in err
    assert (7, "failed") == (toy.muster("wait", third).returncode, toy.state(third))
    until(lambda: toy.queue()["3"][0] == "FAILED", "the third job is over")
    # muster kills one that is running, and the queue another
    (toy.root / "go on").unlink()
    for job, kill in (("4", toy.kill), ("5", toy.cancel)):
        run = toy.detached("-g", "1", "waits.py")
        until(lambda run=run: toy.printed(run), "it runs")
        assert "running" == toy.state(run)
        kill(run, job)
        assert (137, "killed") == (toy.muster("wait", run).returncode, toy.state(run))
    # inside a job it runs on the nodes of that job
    (toy.root / "own.sh").write_text(
        f"exec {sys.executable} -m muster run --scheduler toy -g 1 -- sh -c 'echo in $TOYQ_JOB'"
    )
    subprocess.run(["toyq", "submit", "own.sh"], env=toy.env, cwd=toy.root, check=True, stdout=subprocess.DEVNULL)
    until(lambda: toy.queue()["6"][0] == "DONE", "the job in which muster was started is over")
    assert "in 6\n" in (toy.root / "toyq" / "6.out").read_text()
    # the records name the scheduler
    job = json.loads(next(toy.root.glob(f"**/runs/{third}/job.json")).read_text())
    recorded = {"name": "toy", "job": "3", "job_name": "sh", "allocated": False, "requeue": 0, "after": []}
    assert recorded == job["scheduler"]
    done = toy.muster("run", "--label", "x", "waits.py")
    assert (2, True) == (done.returncode, "--label requires --scheduler toy" in done.stderr), done.stderr
