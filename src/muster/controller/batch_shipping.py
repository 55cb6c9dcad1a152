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
from muster.controller.batch_roles import StepGroup
from muster.controller.bootstrap import Need
from muster.controller.env_shipping import job_there, moved, ship
from muster.controller.started_agents import StartedAgents
from muster.core.json_records import job_from_json
from muster.core.model import as_json
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

    `ends` returns whether the scheduler ends the job. Raises `MusterError`.
    """
    found, job = environments.find(sys.executable), job_from_json(asked["job"])
    scheduler = client.scheduler
    targets = [
        Target(
            transport="step" if number else "local",  # this process is on the first node
            host=host,
            python=sys.executable,
            scheduler=job.scheduler,
            allocation=allocation.job,
        )
        for number, host in enumerate(allocation.hosts)
    ]
    # the signals that end the job stay pending for others
    agents = _ReceivingAgents(loop, CapturedSignals(loop, ()), Need("/"), targets, scheduler.clean(env), say)
    agents.ends, agents.ended = ends, f"{client.title} ended job {allocation.job} before the ranks started"
    agents.spares = job.spare_nodes
    try:
        agents.come(Need("/"), str(run.path))
        if agents.failed:  # as many as there are spares: the start of the run tells why they are left out
            agents.arrange([link.node for link in agents.living])
        records = str(run.path.parent.parent / "environments")
        pythons = ship(agents, found, asked["ship_env"], {}, records).pythons
    finally:
        agents.abort()
    there = job_there(job, found, pythons)
    return {**asked, "job": as_json(there)}, groups_by_python(
        StepGroup(there, allocation.hosts, there.python, env), found, pythons
    )


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
