"""A job with `--ship-env`: its nodes first get the environment on their local disks, and then run with it.

The nodes share a file system, so the controller in the job reads the environment there and sends it as a run over ssh
does. The agents that receive it are job steps of their own, one for each node, and end before the run begins.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from muster import environments
from muster.controller.batch_roles import StepGroup, groups_of
from muster.controller.bootstrap import Need
from muster.controller.env_shipping import job_there, moved, ship_by
from muster.controller.started_agents import StartedAgents
from muster.core.json_records import job_from_json
from muster.core.model import Job, as_json
from muster.environments import Environment
from muster.errors import Unreachable
from muster.linux.eventloop import EventLoop
from muster.linux.signals import CapturedSignals
from muster.rundir.run import Run
from muster.schedulers.client import SchedulerClient
from muster.schedulers.scheduler import Allocation
from muster.transports.target import Target

_LOOK = 0.5
"""Seconds between checks whether the scheduler ends the job."""


class _ReceivingAgents(StartedAgents):
    """The agents that receive an environment, until the scheduler ends the job."""

    ends: Callable[[], bool]
    ended = ""
    """What to say then."""

    def turn(self, kind: str, wait: float) -> None:
        """Wait for an event. Raises `Unreachable` if the job ends."""
        if self.ends():
            raise Unreachable(self.ended, None)
        super().turn(kind, min(wait, _LOOK))


def with_environment(
    loop: EventLoop,
    run: Run,
    asked: Mapping[str, Any],
    client: SchedulerClient,
    allocation: Allocation,
    env: Mapping[str, str],
    ends: Callable[[], bool],
    say: Callable[[str], object],
) -> tuple[Mapping[str, Any], list[StepGroup]]:
    """Send the environment to the nodes of a job; return the request for a run with it, and how agents are started.

    With roles, each environment goes to the nodes of the roles that have its interpreter. `ends` returns whether the
    scheduler ends the job. Raises `MusterError`.
    """
    job = job_from_json(asked["job"])
    of_roles = groups_of(asked, allocation, env)
    every = of_roles or [StepGroup(job, allocation.hosts, sys.executable, env)]
    jobs: dict[int, Job] = {}
    groups: list[StepGroup] = []

    def sent(found: Environment, hosts: Sequence[str]) -> Mapping[str, str]:
        targets = [
            Target(
                transport="local" if host == allocation.hosts[0] else "step",  # this process is on the first node
                host=host,
                python=sys.executable,
                scheduler=job.scheduler,
                allocation=allocation.job,
            )
            for host in hosts
        ]
        # the signals that end the job stay pending for others
        agents = _ReceivingAgents(loop, CapturedSignals(loop, ()), Need("/"), targets, client.scheduler.clean(env), say)
        agents.ends, agents.ended = ends, f"{client.title} ended job {allocation.job} before the ranks started"
        agents.spares = job.spare_nodes
        records = str(run.path.parent.parent / "environments")
        return ship_by(agents, str(run.path), found, asked["ship_env"], {}, records).pythons

    for python in dict.fromkeys(group.python for group in every):
        found = environments.find(python)
        own = [index for index, group in enumerate(every) if group.python == python]
        pythons = sent(found, [host for index in own for host in every[index].hosts])
        for index in own:
            group = every[index]
            here = {host: pythons[host] for host in group.hosts if host in pythons}
            jobs[index] = there = job_there(group.job, found, here)
            groups += groups_by_python(group._replace(job=there, python=there.python), found, here)
    roles = [{**role, "job": as_json(jobs[index])} for index, role in enumerate(asked.get("roles") or [])]
    return {**asked, "job": as_json(jobs[0]), "roles": roles}, groups


def groups_by_python(group: StepGroup, found: Environment, pythons: Mapping[str, str]) -> list[StepGroup]:
    """Return how the agents are started: hosts whose copies are at the same path together.

    A host without a copy could not be reached, and is left out for a spare one.
    """
    by_path: dict[str, list[str]] = {}
    for host in group.hosts:
        by_path.setdefault(pythons.get(host, group.python), []).append(host)
    return [
        group._replace(hosts=tuple(hosts), python=path, env=own_env(group.env, found, path))
        for path, hosts in by_path.items()
    ]


def own_env(env: Mapping[str, str], found: Environment, python: str) -> dict[str, str]:
    """Return what agents inherit, with the paths of their copy: also on PATH, if the environment is active."""
    adapted = moved(env, found.prefix, {"": python})
    folder = os.path.dirname(python)
    words: Sequence[str] = adapted.get("PATH", "").split(":")
    own = os.path.join(found.prefix, "bin")
    if own in words:
        adapted["PATH"] = ":".join(folder if word == own else word for word in words)
    return adapted
