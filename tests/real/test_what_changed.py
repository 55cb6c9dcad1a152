"""What a run consisted of, what differs between two runs, and the report that a failed run writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

import pytest
from running import RunProcesses, carriers
from waiting import until

from muster.core.provenance import Provenance
from muster.rundir.run import Run

Script = Callable[..., Path]

TRAIN = """
import os, sys, time, torch
events = "{MUSTER_HOME}/runs/{TORCHELASTIC_RUN_ID}/events.jsonl".format_map(os.environ)
while b'{"event": "provenance"' not in open(events, "rb").read():
    time.sleep(0.05)
if len(sys.argv) > 2 and float(sys.argv[2]) > 0.5:
    raise ValueError("loss is NaN")
"""
"""It runs until it is recorded what runs, for which a busy machine may take longer than for it."""


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=ann", "-c", "user.email=ann@example.org"]
    return subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A git repository with a script."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "train.py").write_text(TRAIN)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "begin")
    return folder


def described(muster: Any) -> Provenance:
    """What the newest run recorded about node 0."""
    found = Run(muster.newest()).provenance()
    assert found, (muster.newest() / "events.jsonl").read_text()
    return found[0]


@pytest.mark.parametrize("words", [[], ["--launcher", "exec"], ["--launcher", "torchrun"], ["-d"]])
def test_what_runs_is_recorded(muster: Any, project: Path, words: list[str]) -> None:
    (project / "train.py").write_text(TRAIN + "# more\n")
    (project / "new file.py").write_text("")
    trap = project / "trap"
    trap.mkdir()
    if "torchrun" not in words:  # which would import it itself
        (trap / "json.py").write_text("raise SystemExit('not this one')\n")
    else:
        (trap / "other.py").write_text("")
    env = {**muster.env, "A_TOKEN": "hunter2"}
    done = muster("run", "-q", "-g", "2", "--cwd", str(trap), *words, str(project / "train.py"), env=env)
    assert 0 == done.returncode, done.stderr
    if words == ["-d"]:
        assert 0 == muster("wait", "last").returncode
    found = described(muster)
    import torch

    assert torch.__version__ == found.torch and ".".join(map(str, sys.version_info[:3])) == found.python
    assert found.packages["pytest"] == pytest.__version__
    assert found.git is not None
    assert (git(project, "rev-parse", "HEAD"), "main") == (found.git.commit, found.git.branch)
    assert [("train.py", "M", 1, 0), ("new file.py", "?", 0, 0), ("trap/", "?", 0, 0)] == [
        file[:4] for file in found.git.dirty
    ]
    assert "MUSTER_HOME" in found.variables and "MUSTER_HOOK" not in found.variables
    assert found.cores and found.memory and found.kernel
    assert "hunter2" not in (muster.newest() / "events.jsonl").read_text()


def test_a_program_that_is_not_python(muster: Any, project: Path) -> None:
    """It runs long enough to be recorded."""
    with RunProcesses(muster, "run", "-q", "-g", "2", "--", "sleep", "600", cwd=project) as run:
        until(lambda: Run(run.path).provenance(), "it is recorded")
        run.process.send_signal(signal.SIGTERM)
        assert 143 == run.end()[0]
    found = described(muster)
    assert found.git is not None and "main" == found.git.branch


def test_a_slow_git_delays_nothing_and_stays_nowhere(muster: Any, project: Path, tmp_path: Path) -> None:
    """The program named git here stands for a repository on a file system that hangs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "git").write_text("#!/bin/sh\nsleep 100\n")
    (folder / "git").chmod(0o755)
    env = {**muster.env, "PATH": f"{folder}:{muster.env['PATH']}"}
    began = time.monotonic()
    done = muster("run", "-g", "2", "--launcher", "exec", "--", "sleep", "1", cwd=project, env=env)
    assert 0 == done.returncode and time.monotonic() - began < 20
    assert "orphaned" not in done.stderr, "it is no process of a rank"
    assert not Run(muster.newest()).provenance()
    assert not carriers(muster.newest().name)
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and _is(pid, str(folder))]


def _is(pid: str, word: str) -> bool:
    try:
        return word in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def test_restarts_keep_it_and_do_not_end_it(muster: Any, project: Path) -> None:
    """Processes left by ranks are killed between attempts; this is none of them."""
    (project / "flaky.py").write_text("import os, sys\nsys.exit(os.environ['TORCHELASTIC_RESTART_COUNT'] == '0')\n")
    done = muster("run", "-g", "2", "--max-restarts", "1", "--launcher", "exec", str(project / "flaky.py"))
    assert 0 == done.returncode and "orphaned" not in done.stderr


def test_what_changed_since_the_last_success(muster: Any, project: Path) -> None:
    train = str(project / "train.py")
    assert "since the last" not in muster("run", "-g", "2", train, "--lr", "0.9").stderr, "nothing succeeded before"
    assert 0 == muster("run", "-q", "-g", "2", train, "--lr", "0.1").returncode
    good = muster.newest().name
    same = muster("run", "-g", "2", train, "--lr", "0.1")
    assert "since the last" not in same.stderr and "report: " not in same.stderr
    good = muster.newest().name
    (project / "train.py").write_text(TRAIN + "# one\n# two\n")
    failed = muster("run", "-g", "2", train, "--lr", "0.9")
    assert 1 == failed.returncode
    lines = failed.stderr.splitlines()
    (at,) = (number for number, line in enumerate(lines) if line.startswith("since the last successful run"))
    assert lines[at].startswith(f"since the last successful run of this script ({good}, ")
    assert "    --lr 0.1 → 0.9, train.py +2 lines" == lines[at + 1]
    assert lines[at + 1] in muster("show").stdout and lines[at + 1] in muster("wait").stdout
    shown = muster("diff", "last")
    assert 0 == shown.returncode, shown.stderr
    assert shown.stdout.startswith(f"- {good}  succeeded after ")
    assert "\narguments\n  --lr  0.1 → 0.9\n" in shown.stdout
    assert "\ncode\n  train.py  as committed → +2 lines\n" in shown.stdout
    data = json.loads(muster("diff", good, "last", "--json").stdout)
    assert {"topic": "arguments", "name": "--lr", "before": "0.1", "after": "0.9"} in data["differences"]
    other = muster("diff", "last", good)
    assert "--lr  0.9 → 0.1" in other.stdout


def test_runs_that_cannot_be_compared(muster: Any, project: Path) -> None:
    muster("run", "-q", "-g", "1", str(project / "train.py"))
    for words, says in (
        (["last"], "no earlier successful run of the script"),
        (["last", "last", "last"], "compares two runs, got 3"),
        (["last", "nosuch"], "run not found"),
    ):
        done = muster("diff", *words)
        assert 2 == done.returncode and says in done.stderr
    assert "no recorded difference" in muster("diff", "last", "last").stdout


def test_a_failed_run_writes_its_report(muster: Any, script: Script) -> None:
    text = "import os\nprint('step 1')\nif os.environ['RANK'] == '1':\n    raise ValueError('bad <label>')\n"
    done = muster("run", "-g", "2", "--name", "mine", str(script(text, "train.py")), "--api-key", "hunter2")
    path = muster.newest() / "report.html"
    assert f"report: {path}" == done.stderr.splitlines()[-1]
    page = path.read_text()
    assert page.startswith("<!doctype html>") and "ValueError: bad &lt;label&gt;" in page
    assert "hunter2" not in page and "step 1" in page and "mine" in page
    assert 0o600 == path.stat().st_mode & 0o777


def test_other_runs_write_none(muster: Any, script: Script) -> None:
    done = muster("run", "-g", "2", str(script("", "train.py")))
    assert 0 == done.returncode and not (muster.newest() / "report.html").exists()
    made = muster("report", "last")
    assert str(muster.newest() / "report.html") == made.stdout.strip()
    assert "all 2 ranks succeeded" in (muster.newest() / "report.html").read_text()
    made = muster("report", "-o", "here.html")
    assert "here.html" == made.stdout.strip() and (muster.cwd / "here.html").exists()
    refused = muster("report", "-o", "/nosuch/here.html")
    assert 2 == refused.returncode and "not writable" in refused.stderr


def test_a_running_run_has_a_report(muster: Any, script: Script) -> None:
    text = "import time\nprint('at work', flush=True)\ntime.sleep(600)\n"
    assert 0 == muster("run", "-d", "-g", "2", str(script(text, "train.py"))).returncode
    try:
        until(lambda: "at work" in muster("logs", "last").stdout, "it is at work")
        made = muster("report", "last")
        page = Path(made.stdout.strip()).read_text()
        assert ">running<" in page and "at work" in page
    finally:
        muster("kill", "last")
    assert not (muster.newest() / "report.html").read_text().count("failed first")
