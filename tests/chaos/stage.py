"""A run of a scenario while it runs: who is who, and what the ranks have written."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lab_cluster import LabCluster
from population import Process, Things, everything, processes
from scenarios import GRACE, LEASE, Ending, Moment, Place, Scenario

JOB = Path(__file__).parent / "chaos_job.py"

_AGENT = re.compile(r" -I -S (-c f=open\(0|.+/muster\.pyz step )")


class Stage:
    """A run in a lab. Its directory has the ranks' own files."""

    def __init__(self, there: LabCluster, scenario: Scenario):
        self.there, self.scenario = there, scenario
        if scenario.fault == "stalled disk":  # the file system that stalls is that of the run directory
            there.home = Path(there.lab.folder.shared, str(scenario.seed))  # as seen from outside
            there.env["MUSTER_HOME"] = f"{there.lab.folder.share}/{scenario.seed}"
        self.before: Things = everything(there.lab.status()["hosts"])
        self.folder = there.folder
        self.go = there.folder / "go"
        self.terminal: subprocess.Popen[str] | None = None
        """`muster run`, or for a detached run `muster attach`; its nsenter, outside."""
        self.submission: subprocess.Popen[str] | None = None
        """`muster run -d`."""
        self.terminal_struck = False
        """Whether the exit code of the terminal says nothing."""
        self.killed: subprocess.Popen[str] | None = None
        """`muster kill`."""

    # ---- the run

    def words(self) -> list[str]:
        """Return the arguments of muster."""
        scenario = self.scenario
        where = {
            Place.LOCAL: ["-g", "2"],
            Place.LOCAL_DETACHED: ["-d", "-g", "2"],
            Place.SSH: ["-H", "n1,n2", "-g", "1", "--lease", f"{LEASE:g}s"],
            Place.SSH_DETACHED: ["-d", "-H", "n1,n2", "-g", "1", "--lease", f"{LEASE:g}s"],
            Place.SLURM: ["--slurm", "-N", "2", "-g", "1", "--lease", f"{LEASE:g}s"],
        }[scenario.place]
        more = ["--max-restarts", str(scenario.restarts), "--restart-delay", "0.2"] if scenario.restarts else []
        more += ["--grace", f"{GRACE:g}", "--launcher", scenario.launcher, "--no-code-check"]
        return ["run", *where, *more, str(JOB), scenario.job, str(self.folder)]

    def start(self) -> None:
        """Start the run."""
        if self.scenario.place.detached:
            self.submission = self.there.start(*self.words())
        else:
            self.terminal = self.there.start(*self.words())

    def watch(self) -> None:
        """Start a terminal that watches a detached run."""
        if self.submission is not None and self.submission.wait(timeout=120) == 0:
            self.terminal = self.there.start("attach", "last", "--all")

    def said(self) -> str:
        """Return what the terminal has shown, and before that the command that started a detached run."""
        shown = (self.submission, self.terminal)
        return "".join(self.there.said(self.there.started.index(one)) for one in shown if one is not None)

    def end(self) -> None:
        """Let the run end in the way of the scenario."""
        if self.scenario.ending is Ending.WORK:
            self.go.touch()
        elif self.scenario.ending is Ending.INTERRUPT:
            for one in self.find("terminal"):
                with suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGINT)
        else:
            self.killed = self.there.start("kill", "last")

    @property
    def run(self) -> Path | None:
        """The run directory; None if there is none yet."""
        found = sorted((self.there.home / "runs").glob("*/job.json"))
        return found[-1].parent if found else None

    @property
    def over(self) -> bool:
        """Whether the run has ended, as far as its files and its terminal tell."""
        alive = [one for one in (self.submission, self.terminal) if one is not None and one.poll() is None]
        if alive or (self.submission is not None and self.submission.returncode == 0 and self.terminal is None):
            return False
        return not self.terminal_struck or self.recorded() or not self.ours()

    def recorded(self) -> bool:
        """Whether there is a result."""
        return self.run is not None and (self.run / "outcome.json").exists()

    # ---- what the ranks have written

    def written(self) -> dict[tuple[int, str], list[int]]:
        """Return the numbers in the ranks' own files, by rank and process."""
        found = {}
        for path in self.folder.glob("own-*"):
            _, rank, who = path.name.split("-", 2)
            found[int(rank), who] = [int(line) for line in path.read_text().splitlines()]
        return found

    def told(self, name: str) -> dict[int, list[tuple[str, str]]]:
        """Return what the ranks have told under a name: (process, text) by rank."""
        found: dict[int, list[tuple[str, str]]] = {}
        for path in sorted(self.folder.glob(f"{name}-*"), key=lambda path: path.stat().st_mtime):
            _, rank, who = path.name.split("-", 2)
            found.setdefault(int(rank), []).append((who, path.read_text()))
        return found

    def reached(self, moment: Moment) -> bool:
        """Whether the ranks are as far as this moment."""
        if moment is Moment.BEFORE:
            return True
        if moment in (Moment.WHILE, Moment.END):
            lines: dict[int, int] = {}
            for (rank, _), numbers in self.written().items():
                lines[rank] = max(lines.get(rank, 0), len(numbers))
            return len(lines) == 2 and min(lines.values()) >= 3
        return bool(self.told("bye"))

    # ---- who is who

    def living(self) -> dict[str, int]:
        """Return the init processes of the hosts that are up."""
        found: dict[str, int] = self.there.lab.status()["hosts"]
        return found

    def ours(self) -> list[Process]:
        """Return the living processes that came with this run."""
        return [
            one
            for one in processes(self.living())
            if one.lives and (one.pid, one.started) not in self.before.processes and not one.is_daemon
        ]

    def find(self, role: str) -> list[Process]:
        """Return the processes of this role, in the order in which they were started; none if there is none now."""
        found = getattr(self, "_" + role.replace(" ", "_"))(self.ours())
        return sorted(found, key=lambda one: int(one.started))

    @property
    def host(self) -> str:
        """The host of the struck rank, or one of those on which it may be."""
        return self._host_of_rank() or "n1"

    def _host_of_rank(self) -> str:
        """The host of the struck rank; empty if only the scheduler knows it."""
        if self.scenario.place.here:
            return "head"
        if self.scenario.place is not Place.SLURM:
            return f"n{self.scenario.rank + 1}"
        for rank, who in self.written():
            if rank == self.scenario.rank:
                return who.partition(".")[0]
        return ""

    def _on_host_of_rank(self, those: Iterable[Process]) -> list[Process]:
        host = self._host_of_rank()
        return [one for one in those if host in ("", one.host)]

    def _terminal(self, ours: list[Process]) -> list[Process]:
        inside = 0
        if self.terminal is not None and self.terminal.poll() is None:
            with suppress(ProcessLookupError, FileNotFoundError):
                inside = self.there.lab.inside(self.terminal)
        return [one for one in ours if one.pid == inside]

    def _rank(self, ours: list[Process]) -> list[Process]:
        pids = {who for rank, who in self.written() if rank == self.scenario.rank}
        known = [one for one in ours if f"{one.host}.{one.inner}" in pids]
        return known or [one for one in self._on_host_of_rank(ours) if one.name == f"rank {self.scenario.rank}"]

    def _child(self, ours: list[Process]) -> list[Process]:
        told = {f"{who.partition('.')[0]}.{pid}" for who, pid in self.told("child").get(self.scenario.rank, [])}
        return [one for one in ours if f"{one.host}.{one.inner}" in told]

    def _agents(self, ours: list[Process]) -> list[Process]:
        """All with the command line of an agent: the agent, its guard, and what forwards its connection."""
        return [one for one in ours if _AGENT.search(f" {one.words} ")]

    def _agent(self, ours: list[Process]) -> list[Process]:
        alike = self._agents(ours)
        parents = {one.parent for one in alike}
        return [one for one in self._on_host_of_rank(alike) if one.pid not in parents]

    def _guard(self, ours: list[Process]) -> list[Process]:
        parents = {one.parent for one in self._agent(ours)}
        return [one for one in self._agents(ours) if one.pid in parents]

    def _of_agent(self, ours: list[Process]) -> list[Process]:
        """The children of the agent that have the hook and are no ranks: the fork server, and the store."""
        agents = {one.pid for one in self._agent(ours)}
        mine = [one for one in ours if one.parent in agents and one.hook and not one.name.startswith("rank ")]
        ranks = {who for _, who in self.written()}
        mine = [one for one in mine if f"{one.host}.{one.inner}" not in ranks]
        return sorted(mine, key=lambda one: int(one.started))

    def _fork_server(self, ours: list[Process]) -> list[Process]:
        return self._of_agent(ours)[:1] if self.scenario.launcher == "fork" else []

    def _store(self, ours: list[Process]) -> list[Process]:
        return self._of_agent(ours)[1:2] if self.scenario.launcher == "fork" else []

    def _controller(self, ours: list[Process]) -> list[Process]:
        return [one for one in ours if re.search(r"muster\.pyz (serve|inside) ", f"{one.words} ")]

    def _launcher(self, ours: list[Process]) -> list[Process]:
        agents = {one.pid for one in self._agent(ours)}
        return [one for one in ours if one.parent in agents and self.scenario.launcher in one.words]

    def _ssh(self, ours: list[Process]) -> list[Process]:
        return [one for one in ours if one.program == "ssh" and f" n{self.scenario.rank + 1} " in one.words]

    def _session(self, _: list[Process]) -> list[Process]:
        """The processes of sshd for connections to the host."""
        old, host = self.before.processes, self._host_of_rank()
        here = [one for one in processes(self.living()) if one.host == host and (one.pid, one.started) not in old]
        return [one for one in here if one.program.startswith("sshd")]

    def _slurmd(self, _: list[Process]) -> list[Process]:
        return self._daemons("slurmd")

    def _slurmctld(self, _: list[Process]) -> list[Process]:
        return [one for one in processes(self.living()) if one.program.startswith("slurmctld")]

    def _slurmstepd(self, _: list[Process]) -> list[Process]:
        return self._daemons("slurmstepd")

    def _daemons(self, program: str) -> list[Process]:
        everybody = processes(self.living())
        return [one for one in everybody if one.host == self.host and one.program.startswith(program)]

    def _srun(self, ours: list[Process]) -> list[Process]:
        return [one for one in ours if one.program == "srun"]

    # ---- after it

    def log(self) -> dict[int, list[str]]:
        """Return the lines of all attempts' logs by rank."""
        found: dict[int, list[str]] = {}
        if self.run is not None:
            for path in sorted(self.run.glob("attempt_*/rank_*.out")):
                rank = int(path.name[5:10])
                found.setdefault(rank, []).extend(path.read_text(errors="replace").splitlines())
        return found

    def outcome(self) -> dict[str, Any] | None:
        """Return what outcome.json says."""
        return json.loads((self.run / "outcome.json").read_text()) if self.run and self.recorded() else None

    def clean(self) -> None:
        """Run `muster clean` on each host, as documented after a kill of an agent with its guard."""
        for host in self.living():
            self.there.muster("clean", host=host)


def sleep(seconds: float) -> None:
    """Wait because the scenario says so."""
    if seconds > 0:
        time.sleep(seconds)
