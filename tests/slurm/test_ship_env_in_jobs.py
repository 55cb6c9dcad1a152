"""`--ship-env` in a job of Slurm: its nodes get the environment on their own disks, and the ranks run with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_cluster import LabCluster
from waiting import until

SCRIPT = """
import os, socket, sys
import tiny
active = [word for word in os.environ["PATH"].split(":") if word.startswith(sys.prefix)]
print(socket.gethostname(), sys.prefix, tiny.WORD, os.environ.get("VIRTUAL_ENV"), *active, flush=True)
"""


def make_venv(top: Path) -> Path:
    """A venv with one package."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(top)], check=True)
    (packages,) = top.glob("lib/python3*/site-packages")
    (packages / "tiny.py").write_text("WORD = 'one'\n")
    return top


def test_nodes_of_a_job_get_the_environment(there: LabCluster) -> None:
    """As a queued job, and inside an allocation, where nothing is sent again."""
    venv, script = make_venv(there.folder / "my_venv"), there.script(SCRIPT)
    root = f"{there.lab.folder.scratch}/envs-{there.folder.name}"
    active = {"VIRTUAL_ENV": str(venv), "PATH": f"{venv}/bin:{os.environ['PATH']}"}
    words = ("--ship-env", "--env-dir", root, "--python", f"{venv}/bin/python", "--launcher", "exec", "-g", "1")
    line = ("run", "--slurm", *words, "--prefix", "", script)
    try:
        done = there.muster(*line[:2], "-N", "2", *line[2:], env=active)
        assert 0 == done.returncode, done.stderr
        said = [line for line in (there.run / "events.jsonl").read_text().splitlines() if "sending" in line]
        assert said and f"sending the virtual environment {venv} to n[1-2]: " in said[0], said
        found = [told.split() for told in done.stdout.splitlines()]
        (prefix,) = {one[1] for one in found}
        assert prefix.startswith(f"{root}/") and prefix.endswith("/env")
        assert [[host, prefix, "one", prefix, f"{prefix}/bin"] for host in ("n1", "n2")] == sorted(found)
        inside = ["salloc", "-Q", "-N2", *there.argv(*line)]
        env = {**there.lab.environment(), **there.env, **active}
        again = there.lab.run("head", inside, env=env, cwd=str(there.folder), timeout=240)
        assert 0 == again.returncode, again.stderr
        assert "sending" not in (there.run / "events.jsonl").read_text()
        assert sorted(done.stdout.splitlines()) == sorted(again.stdout.splitlines())
        there.nothing_left()
    finally:
        for host in there.lab.nodes:
            there.lab.run(host, ["rm", "-rf", root], cwd="/")


def test_roles_of_a_job_have_an_environment_each_and_the_same_code(there: LabCluster) -> None:
    """Only the head has the code; all nodes see both environments, and read copies on their own disks."""
    one, two = make_venv(there.folder / "one_venv"), make_venv(there.folder / "two_venv")
    next(two.glob("lib/python3*/site-packages/tiny.py")).write_text("WORD = 'two'\n")
    root, work = f"{there.lab.folder.scratch}/envs-{there.folder.name}", f"/var/tmp/code of {there.folder.name}"
    made = there.lab.run("head", ["sh", "-c", f"mkdir '{work}' && cat >'{work}/main.py'"], cwd="/", input=SCRIPT)
    assert 0 == made.returncode, made.stderr
    line = ("run", "--slurm", "--ship-env", "--env-dir", root, "--sync", "--prefix", "", "--launcher", "exec")
    first = ("--role", "a", "-N", "2", "-g", "1", "--python", f"{one}/bin/python", "main.py")
    second = ("--role", "b", "-g", "1", "--launcher", "exec", "--python", f"{two}/bin/python", "main.py")
    try:
        done = there.muster(*line, *first, ":", *second, cwd=work, timeout=180)
        assert 0 == done.returncode, done.stderr
        found = sorted(told.split()[:3] for told in done.stdout.splitlines())
        assert [("n1", "one"), ("n2", "one"), ("n3", "two")] == [(host, word) for host, _, word in found]
        assert all(prefix.startswith(f"{root}/") for _, prefix, _ in found), found
        there.nothing_left()
    finally:
        for host in ("head", *there.lab.nodes):
            there.lab.run(host, ["rm", "-rf", root, work], cwd="/")


def test_a_session_in_a_job_has_the_environment(there: LabCluster) -> None:
    venv, script = make_venv(there.folder / "my_venv"), there.script(SCRIPT)
    root = f"{there.lab.folder.scratch}/envs-{there.folder.name}"
    words = ("--ship-env", "--env-dir", root, "--python", f"{venv}/bin/python", "-N", "2", "-g", "1")
    try:
        held = there.muster("hold", "--slurm", *words, "--name", "dev")
        assert 0 == held.returncode, held.stderr
        done = there.muster("run", "--on", "dev", "--launcher", "exec", "--prefix", "", script)
        assert 0 == done.returncode, done.stderr
        found = [told.split() for told in done.stdout.splitlines()]
        assert 2 == len({one[0] for one in found})
        assert all(one[1].startswith(f"{root}/") and one[2] == "one" for one in found), found
        assert 0 == there.muster("release", "dev").returncode
        there.nothing_left()
    finally:
        for host in there.lab.nodes:
            there.lab.run(host, ["rm", "-rf", root], cwd="/")


class Shipping:
    """Runs with an environment of the lab's head, and what the nodes have of it."""

    def __init__(self, there: LabCluster):
        self.there, self.root = there, f"{there.lab.folder.scratch}/envs-{there.folder.name}"
        venv = make_venv(there.folder / "my_venv")
        env = ("--ship-env", "--env-dir", self.root, "--python", f"{venv}/bin/python")
        self.line = ("run", "--slurm", *env, "--launcher", "exec", "-g", "1", "--prefix", "")

    def copies(self, host: str) -> list[str]:
        """The environments on a host, also those that are not complete."""
        found: str = self.there.lab.run(host, ["sh", "-c", f"ls {self.root} 2>/dev/null || true"], cwd="/").stdout
        return found.split()

    def said(self) -> list[str]:
        """The messages of all runs that an environment is being sent."""
        texts: list[Any] = []
        for path in sorted((self.there.home / "runs").glob("*/events.jsonl")):
            texts += [json.loads(line).get("text", "") for line in path.read_text().splitlines()]
        return [text for text in texts if text.startswith("sending ")]


@pytest.fixture
def shipping(there: LabCluster) -> Iterator[Shipping]:
    made = Shipping(there)
    yield made
    for host in there.lab.nodes:
        there.lab.run(host, ["rm", "-rf", made.root], cwd="/")


def test_tasks_of_an_array_share_a_copy(shipping: Shipping) -> None:
    """They may start at the same time on one node: then each sends it, and one copy is kept."""
    there = shipping.there
    done = there.muster(*shipping.line, "-N", "1", "--array", "0-2", there.script(SCRIPT))
    assert 0 == done.returncode, done.stderr
    found = [there.muster("logs", f"last.{point}").stdout.split() for point in range(3)]
    (prefix,) = {words[2] for words in found}
    used = {words[1] for words in found}
    for host in there.lab.nodes:
        assert ([Path(prefix).parent.name] if host in used else []) == shipping.copies(host)
    assert len(used) <= len(shipping.said()) <= 3
    there.nothing_left()


def test_the_next_attempt_uses_the_copy_and_the_terminal_shows_what_is_sent(shipping: Shipping) -> None:
    there = shipping.there
    more = "import time\ntime.sleep(600 * (os.environ['TORCHELASTIC_RESTART_COUNT'] == '0'))\n"
    line = ("-N", "2", "--nodelist", "n[1-2]", "--requeue", "1", there.script(SCRIPT + more))
    process = there.start(*shipping.line, *line)
    until(lambda: has_begun(there) and there.log(0), "the first attempt runs")
    (number,) = there.lab.run("head", ["squeue", "--noheader", "--format=%A"]).stdout.split()
    assert 0 == there.lab.run("head", ["scontrol", "requeue", number]).returncode
    assert 0 == process.wait(timeout=120), there.said()
    assert there.log(0, attempt=0) == there.log(0, attempt=1)
    (sending,) = shipping.said()
    assert 1 == there.said().count(f"muster: {sending}\n")
    there.nothing_left()


def has_begun(there: LabCluster) -> bool:
    """Return whether the first rank of the first attempt has a log."""
    return bool(list(there.home.glob("runs/*/attempt_0/rank_00000.out")))
