"""The job steps that start the agents of a scheduler's job, from outside: started, watched, and ended."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from muster.agent.controller_process import ARCHIVE
from muster.controller.batch_roles import StepGroup
from muster.controller.joining_agents import PATIENCE
from muster.core.hostlist import fold_hostlist
from muster.core.model import Job
from muster.errors import Unreachable
from muster.linux.signals import CapturedSignals
from muster.rundir.run import Run
from muster.schedulers.client import SchedulerClient
from muster.schedulers.scheduler import Allocation
from muster.transports.target import command_inside

END = 3.0
END_WELL = 20.0
"""Seconds for the job steps to exit after the run: if a node was lost, and otherwise."""


class AgentSteps:
    """The job steps that start a job's agents; a `Starter`."""

    def __init__(
        self,
        signals: CapturedSignals,
        run: Run,
        client: SchedulerClient,
        allocation: Allocation,
        env: Mapping[str, str],
        job: Job,
        apart: bool = False,
        groups: Sequence[StepGroup] = (),
    ):
        """`apart`: each host has a step of its own, which the loss of another host does not end. `groups`: the hosts of
        each role."""
        self.signals, self.run, self.client, self.allocation, self.env = signals, run, client, allocation, env
        self.job, self.apart = job, apart
        self.groups = groups or (StepGroup(job, allocation.hosts, sys.executable, env),)
        self.steps: list[subprocess.Popen[bytes]] = []
        self.hosts: list[tuple[str, ...]] = []
        """The hosts of each step."""
        self.left_out: list[subprocess.Popen[bytes]] = []
        """The steps of hosts that were left out."""
        self.log = run.path / "agents.log"
        self.said_before = self.log.stat().st_size if self.log.exists() else 0
        """Size of the log before this attempt, in bytes."""

    def start(self) -> None:
        """Start one task per node in a single step; in one step per node if they are apart or have unequal GPUs."""
        words = ("-I", "-S", str(self.run.path / ARCHIVE), "step", str(self.run.path))
        gpus = self.client.gpus_by_host(self.allocation, self.env)
        for group in self.groups:
            command = command_inside(group.job, group.python, words, self.client.starts_tasks_with, group.setup)
            of_group = {host: gpus[host] for host in group.hosts}
            alike = len(set(of_group.values())) == 1 and not self.apart
            for hosts in [group.hosts] if alike else [(host,) for host in group.hosts]:
                self.hosts.append(hosts)
                job, each = self.allocation.job, gpus[hosts[0]]
                self.steps.append(self.client.start_step(job, hosts, command, self.log, group.env, each))

    def check(self, missing: Sequence[str], late: bool, spares: int = 0) -> Mapping[str, str]:
        """Raise `Unreachable` if the job, or a step, has ended before the agents joined.

        With `spares`, return instead why agents will not join, by host, if they are not more than these.
        """
        if is_stopped(self.signals, self.client):
            what = f"{self.client.title} ended job {self.allocation.job}"
            raise Unreachable(f"{what} before the ranks started", None)
        ended = next((code for code in (step.poll() for step in self.steps) if code is not None), None)
        said = self._said()
        scheduler = self.client.scheduler
        failed = {host: how for host, how in scheduler.failed_steps(said).items() if host in missing}
        if spares:
            failed = {**self._not_joining(missing, late), **failed}
            if len(failed) <= spares:
                return failed
        if failed or ended is not None or late:
            how = f"{scheduler.task.program} exited with status {ended}"
            how = f"not connected within {PATIENCE:g}s" if ended is None else how
            if failed:  # the other tasks still run, so the step does too
                missing, how = list(failed), "; ".join(dict.fromkeys(failed.values()))
            words = said.strip().splitlines()[-3:]
            raise Unreachable(f"no agent on {fold_hostlist(missing)}: {how}", "; ".join(words) or None)
        return {}

    def _not_joining(self, missing: Sequence[str], late: bool) -> dict[str, str]:
        """Return why agents will not join, by host, where each host has its own step."""
        program, found = self.client.scheduler.task.program, {}
        for (host, *_), step in zip(self.hosts, self.steps):
            if host in missing and (code := step.poll()) is not None:
                found[host] = f"{program} exited with status {code}"
            elif host in missing and late:
                found[host] = "its agent did not connect"
        return found

    def leave_out(self, hosts: Sequence[str]) -> None:
        """End the steps of these hosts."""
        for (host, *_), step in [*zip(self.hosts, self.steps)]:
            if host in hosts:
                step.terminate()
                self.left_out.append(step)
                self.hosts.remove((host,))
                self.steps.remove(step)

    def _said(self) -> str:
        """Return the output of this attempt's steps and agents."""
        with open(self.log, "rb") as file:
            file.seek(self.said_before)
            return file.read(1 << 16).decode("utf-8", "replace")

    def terminate(self) -> None:
        """Terminate the steps, before anything was started."""
        for step in self.steps:
            step.terminate()
        self.see_end(END_WELL)

    def see_end(self, within: float) -> None:
        """Wait for all steps to exit, and kill those that have not after `within` seconds.

        A step may wait for a crashed node until the scheduler notices it, which can take minutes, and the job would
        keep its nodes; or for ever, if the scheduler's own process on a node was killed.
        """
        now = time.monotonic()
        ends = *((step, now + within) for step in self.steps), *((step, now + END) for step in self.left_out)
        for step, end in ends:
            try:
                step.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                step.kill()
                step.wait()


def is_stopped(signals: CapturedSignals, client: SchedulerClient) -> bool:
    """Return whether the scheduler's signal that announces the end of the job has arrived, and is not handled yet."""
    return bool({signal.SIGTERM, signal.Signals[f"SIG{client.scheduler.signals.stop}"]}.intersection(signals.pending))
