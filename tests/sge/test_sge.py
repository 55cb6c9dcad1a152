"""Runs on a real Grid Engine: `make lab-test` installs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import until

import muster
from muster.errors import InvalidRequest
from muster.lab import Lab

pytestmark = pytest.mark.lab

WAITS = """
import os, pathlib, socket, sys, time
rank, of, token = (os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "TOKEN"))
print("rank", rank, "of", of, "on", socket.gethostname(), token, flush=True)
if sys.argv[1:] == ["99"]:
    sys.exit(99)
while not pathlib.Path("go on").exists():
    time.sleep(0.05)
"""


class Cluster:
    """muster on the head of a lab with Grid Engine."""

    def __init__(self, lab: Lab, root: Path):
        self.lab, self.root = lab, root
        self.env = {"MUSTER_HOME": str(root / "muster home"), "OMP_NUM_THREADS": "1", "TOKEN": "hunter2"}
        (root / "waits.py").write_text(WAITS)

    def muster(self, *words: str, code: int = 0, host: str = "head") -> subprocess.CompletedProcess[str]:
        """Run `muster` to completion; it has to exit with this code."""
        argv = [sys.executable, "-m", "muster", *words]
        done = self.lab.run(host, argv, env=self.env, cwd=str(self.root), timeout=240)
        assert code == done.returncode, done.stdout + done.stderr
        return done

    def ask(self, *words: str) -> str:
        """Return the output of a command of Grid Engine, even if it fails."""
        return self.lab.run("head", words).stdout

    def started(self, *words: str) -> tuple[str, str]:
        """Submit a run of two ranks on each of two nodes that wait; return its id and job once they run."""
        done = self.muster("run", "--sge", "-N", "2", "-g", "2", "-d", *words)
        run, job = done.stdout.strip(), re.findall(r"as job (\d+)", done.stderr)[0]
        until(lambda: len(list(self.root.glob(f"muster home/runs/{run}/attempt_0/*.out"))) == 4, "all ranks run", 150)
        return run, job

    def state(self, run: str) -> str:
        """Return the state that `ps` shows."""
        return next(str(one["state"]) for one in json.loads(self.muster("ps", "--json").stdout) if one["id"] == run)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    root = Path(__file__).parents[2]
    lab = Lab(2, gpus=2, scheduler="sge", shared=[tmp_path_factory.getbasetemp(), root])
    try:
        lab.up(owned=True)
    except InvalidRequest as error:
        pytest.skip(f"no lab: {error.sentence}")
    yield lab
    lab.down()


@pytest.fixture
def there(made: Lab, tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(made, tmp_path)
    yield found
    made.run("head", ["qdel", "-f", "*"])
    until(lambda: not found.ask("qstat"), "the queue is empty")


def test_a_run_ends_with_the_code_of_its_ranks(there: Cluster) -> None:
    (there.root / "go on").touch()
    done = there.muster("run", "--sge", "-N", "2", "-g", "2", "--resource", "gpu=1", "waits.py")
    on = sorted(re.sub(r"\[\d\] rank \d of 4 on (n\d) hunter2", r"\1", line) for line in done.stdout.splitlines())
    assert ["n1", "n1", "n2", "n2"] == on, "both nodes, with the environment of the submission"
    job = re.findall(r"submitted to Grid Engine as job (\d+)", done.stderr)[0]
    # secrets are in no file that is still there, and not in what other users see
    run = next((there.root / "muster home" / "runs").iterdir())
    assert not [path for path in run.rglob("*") if path.name == "environment.sh"]
    done = there.muster("run", "--sge", "-g", "1", "waits.py", "99", code=99)
    job = re.findall(r"as job (\d+)", done.stderr)[0]
    until(lambda: f"jobnumber    {job}" in there.ask("qacct", "-j", job), "it is in accounting")
    assert re.search(r"^exit_status +1 ", there.ask("qacct", "-j", job), re.M), "99 would start the job again"
    assert "(Grid Engine accounting)" in there.muster("show", job).stdout


def test_a_running_job_is_seen_and_killed(there: Cluster) -> None:
    run, job = there.started("--resource", "gpu=1", "waits.py")
    assert "running" == there.state(run)
    assert "hunter2" not in there.ask("qstat", "-j", job)
    assert f"Grid Engine job {job}, on n[1-2]" in there.muster("show", job).stdout
    assert 4 == len(there.muster("logs", run).stdout.splitlines())
    nodes = json.loads(there.muster("nodes", "--json").stdout)
    assert [("n1", {"": 2}, {"": 2}), ("n2", {"": 2}, {"": 2})] == [
        (one["name"], one["gpus"], one["gpus_in_use"]) for one in nodes["nodes"]
    ]
    jobs = {one["job"]: (one["state"], sorted(one["hosts"].split(","))) for one in nodes["jobs"]}
    assert ("running", ["n1", "n2"]) == jobs[job]
    waiting = there.muster("run", "--sge", "-g", "1", "--sge-opt", "h", "-d", "waits.py").stdout.strip()
    assert "pending: held" in there.muster("show", waiting).stdout
    assert f"{waiting}: removed from the queue\n" == there.muster("kill", waiting).stdout
    assert f"{run}: terminated\n" == there.muster("kill", run).stdout
    until(lambda: ["killed"] * 2 == [there.state(run), there.state(waiting)], "both are known to be killed")


def test_qdel_and_the_time_limit(there: Cluster) -> None:
    run, job = there.started("waits.py")
    there.ask("qdel", job)
    assert "the job was cancelled" in there.muster("wait", run, code=137).stdout
    done = there.muster("run", "--sge", "-N", "2", "-g", "2", "--time", "6s", "waits.py", code=124)
    assert "the job reached its time limit" in done.stderr


SAVES = """
import os, signal, sys, time
def save(number, frame):
    print("saving", flush=True)
    time.sleep(0.5)
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""


def test_qdel_gives_the_ranks_of_all_nodes_a_grace_period(there: Cluster) -> None:
    """Not as root, whose processes Grid Engine does not signal: SIGUSR2 ends its own process that started an agent."""
    home, python = Path(there.lab.folder.homes, "ada"), shutil.which("python3", path="/usr/bin:/usr/local/bin")
    assert python is not None
    shutil.copytree(Path(muster.__file__).parent, home / "program" / "muster", dirs_exist_ok=True)
    (home / "saves.py").write_text(SAVES)
    env = {**there.lab.environment("ada"), "PYTHONPATH": str(home / "program")}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [python, "-m", "muster", *words]
        return there.lab.run("head", argv, env=env, cwd=str(home), user="ada", timeout=240)

    done = run("run", "--sge", "-N", "2", "-g", "1", "-d", "--", python, "saves.py")
    name, job = done.stdout.strip(), re.findall(r"as job (\d+)", done.stderr)[0]
    logs = home / ".muster" / "runs" / name / "attempt_0"
    until(lambda: ["ready\n"] * 2 == [path.read_text() for path in logs.glob("*.out")], "all ranks run", 150)
    there.lab.run("head", ["qdel", job], user="ada")
    done = run("wait", name)
    assert (137, True) == (done.returncode, "the job was cancelled" in done.stdout), done.stdout + done.stderr
    assert ["ready\nsaving\nsaved\n"] * 2 == [path.read_text() for path in logs.glob("*.out")], done.stdout
    left = ["pgrep", "-u", "ada", "-f", "saves.py"]
    until(lambda: not there.lab.run("n1", left).stdout + there.lab.run("n2", left).stdout, "nothing is left", 150)


def test_what_cannot_run_is_an_error(there: Cluster) -> None:
    done = there.muster("run", "--sge", "-N", "2", "-g", "3", "waits.py", code=2)
    assert "no parallel environment of Grid Engine gives a job 3 slots on each of 2 nodes" in done.stderr
    done = there.muster("run", "--sge", "--mem", "5G", "waits.py", code=2)
    assert "hint: use `--resource h_vmem=8G`" in done.stderr
    assert not list(there.root.glob("muster home/runs/*"))


def test_inside_a_job_its_nodes_are_used(there: Cluster) -> None:
    (there.root / "go on").touch()
    script = there.root / "own.sh"
    script.write_text(
        f"export MUSTER_HOME='{there.root}/muster home' PATH={os.environ['PATH']}\n"
        f"cd {there.root}; {sys.executable} -m muster run --sge -g 1 waits.py >own.txt 2>&1; echo $? >own.code\n"
    )
    there.ask("qsub", "-terse", "-pe", "mpi2", "4", "-o", "/dev/null", "-j", "y", str(script))
    until(lambda: (there.root / "own.code").exists(), "muster has run inside the job", 150)
    said = (there.root / "own.txt").read_text()
    assert "0\n" == (there.root / "own.code").read_text(), said
    assert ["n1", "n2"] == sorted(re.findall(r"rank \d of 2 on (n\d) ", said)), said
