"""A lab with accounting: sacct answers, also after the head crashed, and `muster show` takes its numbers from there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab_cluster import LabCluster
from waiting import until

from muster.lab import Lab
from muster.lab.requirements import ACCOUNTING, missing

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(
        bool(set(missing(accounting=True)) & set(ACCOUNTING.values())),
        reason="slurmdbd or MariaDB is not installed; `muster lab install --accounting`",
    ),
]

SCRIPT = """
import os, time
data = bytearray(200 << 20) if os.environ["RANK"] == "1" else b""
data[::4096] = b"x" * len(data[::4096])
while time.process_time() < 3:
    sum(range(1000))
time.sleep(3)
""".replace('b""', "bytearray()")
"""Each rank uses 3 s of CPU time, and rank 1 touches 200 MiB for longer than Slurm's sampling interval."""


@pytest.fixture
def there(own_lab: Callable[..., Lab], tmp_path: Path, request: pytest.FixtureRequest) -> LabCluster:
    lab = own_lab(nodes=2, accounting=True, shared=[tmp_path, request.config.rootpath])
    return LabCluster(lab, tmp_path)


def count_questions(there: LabCluster) -> Callable[[], int]:
    """Put a sacct first in PATH that notes each call; return a function that counts the calls."""
    notes, folder = there.folder / "asked", there.folder / "bin"
    folder.mkdir()
    program = folder / "sacct"
    program.write_text(f'#!/bin/sh\necho "$*" >>{notes}\nexec {shutil.which("sacct")} "$@"\n')
    program.chmod(0o755)
    there.env["PATH"] = f"{folder}:{os.environ['PATH']}"
    return lambda: notes.read_text().count("\n") if notes.exists() else 0


def test_show_takes_its_numbers_from_accounting(there: LabCluster) -> None:
    line = ["run", "--slurm", "-N", "2", "-g", "1", "--launcher", "exec", "--gpus-per-node", "2"]
    done = there.muster(*line, there.script(SCRIPT))
    assert 0 == done.returncode, done.stderr

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(there.muster("show", "--json").stdout)["used"]
        return found if found["source"] else {}

    used = until(shown, "accounting has the job, which ends a moment after the run")
    assert "Slurm accounting" == used["source"]
    assert {"n1", "n2"} == {node["host"] for node in used["nodes"]}
    job = json.loads((there.run / "job.json").read_text())["scheduler"]["job"]
    asked = ["sacct", "--noheader", "--parsable2", "--noconvert", f"--jobs={job}", "--format=JobID,TotalCPU,MaxRSS"]
    lines = [line.split("|") for line in there.lab.run("head", asked).stdout.splitlines()]
    said = {step: (float(cpu.partition(":")[2]), memory) for step, cpu, memory in lines}
    assert pytest.approx(said[job][0]) == sum(node["core_seconds"] for node in used["nodes"])
    assert said[job][0] > 6
    peak = max(node["peak"] for node in used["nodes"])
    assert f"{peak}" == said[f"{job}.0"][1]
    assert peak > 200 << 20
    assert [2, 2] == [node["gpus"] for node in used["nodes"]]

    # one question for one run, none for a list
    questions = count_questions(there)
    assert " (Slurm accounting)\n" in there.muster("show").stdout
    assert 1 == questions()
    for words in (("ps",), ("ps", "--since", "1d", "--stats"), ("ps", "--json")):
        assert 0 == there.muster(*words).returncode
    assert 1 == questions()

    # it is in the database, which comes again with the head
    there.lab.fault("crash", "head")
    there.lab.clear()
    assert " (Slurm accounting)\n" in there.muster("show").stdout
