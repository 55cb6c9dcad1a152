"""`--ship-env` in a job of Slurm: its nodes get the environment on their own disks, and the ranks run with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lab_cluster import LabCluster

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
