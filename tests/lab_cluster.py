"""muster on the head of a lab, and its runs on the nodes, for the tests over ssh and on Slurm."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from live_terminal import ON_IT, Terminal
from waiting import until

from muster.lab import Lab, namespaces

EXAMPLE = Path(__file__).parents[1] / "examples" / "distributed_sum.py"

TICK = """
import sys, time
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
for step in range(int(sys.argv[1])):
    one = torch.ones(1)
    dist.all_reduce(one)
    print(f"rank {dist.get_rank()} step {step} sum {one.item():g}", flush=True)
    time.sleep(float(sys.argv[2]))
dist.destroy_process_group()
"""
"""STEPS SECONDS: so many sums, with a pause after each."""

STEPS_UNTIL_GO = """
import itertools, os, time
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
for step in itertools.count():
    go = torch.tensor(float(os.path.exists("go")))
    dist.all_reduce(go)
    print("step", step, flush=True)
    if go.item():
        break
    time.sleep(0.05)
dist.destroy_process_group()
"""
"""Numbered steps, until there is a file `go`."""

WHERE = """
import os, socket, sys, time
import torch.distributed as dist
dist.init_process_group("gloo")
names = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE")
values = [os.environ[name] for name in (*names, "TORCHELASTIC_RESTART_COUNT")]
print(socket.gethostname(), *values, flush=True)
dist.barrier()
while os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and len(sys.argv) > 1:
    time.sleep(0.1)
    dist.barrier()
"""
"""With an argument: the first attempt goes on until a rank is lost."""


def in_step(there: LabCluster, late: int = 1, hosts: bool = False) -> None:
    """Check that the logs of a run of TICK are in step order, up to `late` lines, and each line has its time.

    On one host the kernel tells the order. On several `hosts` it is that of the times at which each agent noticed the
    lines: those that one noticed late, because its host was busy, are out of order. In the order of ranks half of all
    lines would be.
    """
    lines = [line.split() for line in there.muster("logs", "last", "--timestamps", "--stdout").stdout.splitlines()]
    times, steps = [line[0] for line in lines], [int(line[5]) for line in lines]
    assert times == sorted(times) and "-" not in times
    wrong = [step for at, step in enumerate(steps) if step < max(steps[:at], default=0) - late]
    assert len(wrong) <= (len(steps) // 4 if hosts else 0), steps


class Logins:
    """Counts how often the ssh given by --ssh connects to a host."""

    def __init__(self, folder: Path):
        self._notes, path = folder / "logins", folder / "counting-ssh"
        path.write_text(f'#!/bin/sh\necho "$*" >>{self._notes}\nexec ssh "$@"\n')
        path.chmod(0o755)
        self.ssh = str(path)

    def count(self) -> int:
        """Return how often it was started."""
        return self._notes.read_text().count("\n") if self._notes.exists() else 0


class LabCluster:
    """muster in a lab: each test has a directory and a MUSTER_HOME of its own, which all hosts share."""

    def __init__(self, lab: Lab, folder: Path):
        self.lab, self.folder = lab, folder
        self.home = folder / "muster home"
        self.env = {"MUSTER_HOME": str(self.home), "OMP_NUM_THREADS": "1"}
        self.started: list[subprocess.Popen[str]] = []

    def argv(self, *words: str) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", "muster", *words]

    def muster(self, *words: str, host: str = "head", timeout: float = 240, **more: Any) -> Any:
        """Run `muster` on a host to completion."""
        env = {**self.lab.environment(), **self.env, **more.pop("env", {})}
        more.setdefault("cwd", str(self.folder))
        return self.lab.run(host, self.argv(*words), env=env, timeout=timeout, **more)

    def start(self, *words: str, host: str = "head", **more: Any) -> subprocess.Popen[str]:
        """Start `muster` on a host without waiting; its output goes to a file, which `said` reads."""
        env = {**self.lab.environment(), **self.env}
        more.setdefault("cwd", str(self.folder))
        with open(self.folder / f"said {len(self.started)}", "w") as file:
            process = self.lab.start(host, self.argv(*words), env=env, stdout=file, stderr=file, **more)
        self.started.append(process)
        return process

    def said(self, which: int = -1) -> str:
        """Return the output of a started muster so far."""
        return (self.folder / f"said {which % len(self.started)}").read_text()

    def script(self, text: str, name: str = "script.py") -> str:
        """Write a script that all hosts see, and return its path."""
        path = self.folder / name
        path.write_text(text)
        return str(path)

    @property
    def run(self) -> Path:
        """Return the newest run directory."""
        return sorted((self.home / "runs").iterdir())[-1]

    @property
    def last_attempt(self) -> int:
        """Return the number of the newest run's last attempt."""
        return max(int(path.name.partition("_")[2]) for path in self.run.glob("attempt_*"))

    def outcome(self) -> dict[str, Any]:
        """Return the result of the newest run."""
        found: dict[str, Any] = json.loads((self.run / "outcome.json").read_text())
        return found

    def ended(self, timeout: float = 120) -> dict[str, Any]:
        """Wait for the result of the newest run, and return it."""
        until(lambda: list((self.home / "runs").glob("*/outcome.json")), "the run has ended", timeout)
        return self.outcome()

    def log(self, rank: int, stream: str = "out", attempt: int = 0) -> str:
        """Return the output of a rank of the newest run."""
        return (self.run / f"attempt_{attempt}" / f"rank_{rank:05d}.{stream}").read_text()

    def ours(self, hosts: Sequence[str] = ()) -> dict[str, list[str]]:
        """Return processes of this test's runs by host: those that mention its directory or MUSTER_HOME."""
        found: dict[str, list[str]] = {}
        living = self.lab.status()["hosts"]
        for host in hosts or self.lab.hosts:
            if host not in living:
                continue
            for pid in namespaces.inhabitants(living[host]):
                with suppress(OSError):
                    words = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
                    environ = Path(f"/proc/{pid}/environ").read_bytes()
                    agent = "-I -S -c f=open" in words  # does not name the test; the lab is this test's alone
                    if agent or str(self.folder) in words or os.fsencode(str(self.folder)) in environ:
                        found.setdefault(host, []).append(f"{pid} {words}")
        return found

    def pids(self, host: str, pattern: str) -> list[int]:
        """Return pids, out here, of this test's processes on a host whose command line matches."""
        return [int(line.split()[0]) for line in self.ours([host]).get(host, []) if re.search(pattern, line)]

    def kill(self, host: str, pattern: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to the first process that matches.

        A process that is starting a program looks like two until the exec: that child is not meant.
        """

        def first() -> list[int]:
            found = self.pids(host, pattern)
            return [pid for pid in found if _parent(pid) not in (*found, 0)]

        os.kill(until(first, f"{pattern} runs on {host}")[0], number)

    def agent(self, host: str) -> int:
        """Return the pid of a host's agent, which is the parent of its ranks."""
        rank = until(lambda: self.pids(host, r"script\.py"), f"a rank runs on {host}")[-1]
        return _parent(rank)

    def temporary(self) -> dict[str, list[str]]:
        """Return the temporary directories of this test's runs by host, of hosts that are up."""
        runs = {path.name for path in (self.home / "runs").glob("*")}
        found: dict[str, list[str]] = {}
        for host, init in self.lab.status()["hosts"].items():
            for file in Path(f"/proc/{init}/root").glob("tmp/muster-*/run"):
                with suppress(OSError):
                    if file.read_text() in runs:
                        found.setdefault(host, []).append(file.parent.name)
        return found

    @contextmanager
    def folder_on(self, *hosts: str) -> Iterator[str]:
        """Create a directory on these hosts only, and remove it; it must be empty then."""
        folder = f"{self.lab.folder.scratch}/{self.folder.name}"
        for host in hosts:
            assert 0 == self.lab.run(host, ["mkdir", folder], cwd="/").returncode
        try:
            yield folder
        finally:
            for host in hosts:
                self.lab.run(host, ["rmdir", folder], cwd="/")

    def nothing_left(self, timeout: float = 60) -> None:
        """Check that no process and no temporary directory of this test is on any host."""
        deadline = time.monotonic() + timeout
        while found := self.ours() or self.temporary():
            assert time.monotonic() < deadline, found
            time.sleep(0.05)

    def steps(self, ranks: int, at_least: int, timeout: float = 120) -> None:
        """Wait until each rank of TICK has made so many steps."""
        until(
            lambda: all(self._lines(rank) >= at_least for rank in range(ranks)),
            f"each of {ranks} ranks has made {at_least} steps",
            timeout,
        )

    def _lines(self, rank: int) -> int:
        try:
            return self.log(rank).count("\n")
        except (OSError, IndexError):
            return 0


def _parent(pid: int) -> int:
    """Return the parent of a process; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def where(there: LabCluster, ranks: int, attempt: int = 0) -> list[str]:
    """Return what each rank of WHERE has printed."""
    return [there.log(rank, attempt=attempt).strip() for rank in range(ranks)]


def on_terminal(there: LabCluster, *words: str) -> Terminal:
    """A command of muster on the head, on a terminal."""

    def start(fd: int) -> Any:
        env = {**there.lab.environment(), **there.env, **ON_IT}
        ends = dict.fromkeys(("stdin", "stdout", "stderr"), fd)
        return there.lab.start("head", there.argv(*words), env=env, cwd=str(there.folder), **ends)

    return Terminal.of(start)


@pytest.fixture
def there(lab: Lab, tmp_path: Path) -> Iterator[LabCluster]:
    """muster in the lab of this test process."""
    made = LabCluster(lab, tmp_path)
    yield made
    lab.clear()
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.wait()
    left = made.ours()
    for lines in left.values():
        for line in lines:
            with suppress(ProcessLookupError):
                os.kill(int(line.split()[0]), signal.SIGKILL)
