"""`muster` starts small: the modules that its quick commands load, and their memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from peak_memory import measured, peak_of

MEGABYTES = 60


class Seen(NamedTuple):
    """One start of muster."""

    out: str
    modules: set[str]
    megabytes: int


def start(words: list[str], env: dict[str, str], cwd: Path) -> Seen:
    """Start it, and record its imports (`-X importtime`)."""
    argv = [sys.executable, "-X", "importtime", "-m", "muster", *words]
    done = subprocess.run(measured(argv), env=env, cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return Seen(done.stdout, {line.rpartition("|")[2].strip() for line in lines}, peak_of(done.stderr) // 1024)


@pytest.mark.parametrize(
    ("words", "shows"),
    [
        pytest.param(["--help"], "muster run", id="--help"),
        pytest.param(["ps"], "no runs in", id="ps"),
        pytest.param(["plan", "-g", "2", "train.py"], "2 ranks on 1 node", id="plan"),
        pytest.param(["run", "--help"], "--max-restarts", id="run --help"),
    ],
)
def test_quick_commands_are_small(words: list[str], shows: str, env: dict[str, str], tmp_path: Path) -> None:
    """They import no torch and no other large module, and need less than 60 MB."""
    (tmp_path / "train.py").write_text("")
    seen = start(words, env, tmp_path)
    assert shows in seen.out
    assert "muster.cli" in seen.modules
    large = {"torch", "numpy", "transformers", "dataclasses", "inspect", "asyncio", "argparse"}
    assert large & {name.partition(".")[0] for name in seen.modules} == set()
    assert seen.megabytes < MEGABYTES
    # the table of launchers names them, and only the one that is used is imported: by its name, which is not shown here
    used = {"muster.launchers._python"} if words[0] == "plan" else set()
    assert {name for name in seen.modules if name.startswith("muster.launchers.")} == used


def test_ps_of_ended_runs_loads_nothing_that_asks(env: dict[str, str], tmp_path: Path) -> None:
    """Their files tell the status: no connections, no words of reports, no `--on-end` are needed for it."""
    run = [sys.executable, "-m", "muster", "run", "-q", "--", "true"]
    subprocess.run(run, env=env, cwd=tmp_path, check=True, timeout=60)
    seen = start(["ps"], env, tmp_path)
    assert "succeeded" in seen.out
    asking = {"muster.client.client", "muster.client.remote", "muster.protocol.local_sockets", "muster.linux.eventloop"}
    wording = {"muster.ui.text", "muster.ui.accounting_text", "muster.notification", "muster.client.pruning"}
    assert seen.modules & {*asking, *wording, "socket", "subprocess", "hashlib"} == set()


def test_what_waits_for_hosts_is_imported_while_they_log_in(tmp_path: Path) -> None:
    """Not before: each import would delay all logins. Nor after they have answered: then the ranks would wait."""
    later = ["muster.client.attach", "muster.bundle", "muster.code_sync", "muster.diagnostics.preflight"]
    code = f"""
import sys, muster.runner.hosts as hosts
from muster.controller.started_agents import Need, StartedAgents
from muster.linux.eventloop import EventLoop
from muster.linux.signals import CapturedSignals
from muster.transports.target import Target
later = {later!r}
assert not set(later) & set(sys.modules)
seen = []
def meanwhile():
    seen.append((len(agents.links), len(agents.answers)))
with EventLoop() as loop, CapturedSignals(loop, ()) as signals:
    targets = [Target("local", name, python=sys.executable) for name in "ab"]
    agents = StartedAgents(loop, signals, Need("/"), targets, dict(), print)
    agents.meanwhile = meanwhile
    agents.start_agents({str(tmp_path)!r})
    agents.abort()
assert seen == [(2, 0)], seen
assert not set(later) & set(sys.modules)
import muster.runner.hand_over
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_help_loads_no_more_than_it_shows(env: dict[str, str], tmp_path: Path) -> None:
    """Only the table of commands: none of their modules, no JSON, no processes."""
    seen = start(["--help"], env, tmp_path)
    ours = {name for name in seen.modules if name.partition(".")[0] == "muster"}
    small = {"muster.core", "muster.linux", "muster.linux.descriptors", "muster.ui", "muster.ui.color"}
    table = {"muster.cli.commands", "muster.cli.help"}
    assert ours == {"muster", "muster.cli", "muster.errors", "muster.core.printable", *table, *small}
    assert seen.modules & {"json", "subprocess", "selectors", "socket", "difflib", "textwrap", "shutil"} == set()
