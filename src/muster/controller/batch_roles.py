"""The roles of a run in a job: its nodes are divided between them in order, and each role has steps of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from muster.config.nodes import nodes_of
from muster.core.hostlist import HostSpec, assign_slots
from muster.core.json_records import job_from_json
from muster.core.model import Host, Job, Plan
from muster.core.plurals import plural
from muster.core.roles import SECRET_OF_ROLE, secret_of_role
from muster.errors import InvalidRequest
from muster.launchers import make_plan
from muster.launchers.roles import joined
from muster.schedulers.scheduler import Allocation


class StepGroup(NamedTuple):
    """Hosts whose agents are started in the same way."""

    job: Job
    hosts: tuple[str, ...]
    python: str
    """The interpreter of the agents, unless they run in a container."""
    env: Mapping[str, str]
    """What they inherit, and their ranks with them."""
    setup: tuple[str, ...] = ()
    """Shell lines to run first, if the batch script has not done that."""


class RoleInJob(NamedTuple):
    """One role, and its nodes."""

    job: Job
    hosts: tuple[str, ...]
    each: str | None
    np: int | None
    threads_chosen: bool
    main: bool
    setup: bool
    """True if its steps run the lines of `--setup`."""
    folder: list[Any]
    """Which directory its working directory is, for `code_tree.same_place`."""


def roles_in_job(
    asked: Mapping[str, Any], allocation: Allocation, exported: Mapping[str, str]
) -> tuple[RoleInJob, ...]:
    """Return the roles of a request with their nodes; empty for one program. Raises `InvalidRequest`."""
    roles, hosts = asked.get("roles") or [], allocation.hosts
    needed = sum(role["nodes"] for role in roles)
    if needed > len(hosts):
        raise InvalidRequest(
            f"the roles need {plural(needed, 'node')}, job {allocation.job} has {len(hosts)}", "use a smaller -N"
        )
    found = []
    for role in roles:
        job = job_from_json(role["job"])
        job = job._replace(allocation=allocation.job, env={**exported, **job.env})
        own = {name: role[name] for name in ("each", "np", "threads_chosen", "main", "setup", "folder")}
        found.append(RoleInJob(job, hosts[: role["nodes"]], **own))
        hosts = hosts[role["nodes"] :]
    return tuple(found)


def groups_of(asked: Mapping[str, Any], allocation: Allocation, env: Mapping[str, str]) -> list[StepGroup]:
    """Return how the agents of each role are started; empty for one program. Raises `InvalidRequest`.

    `env` has the secrets of all roles under names of their own: each role gets only its own.
    """
    found = []
    for index, role in enumerate(roles_in_job(asked, allocation, {})):
        begin = secret_of_role(index, "")
        own = {name[len(begin) :]: value for name, value in env.items() if name.startswith(begin)}
        common = {name: value for name, value in env.items() if not name.startswith(SECRET_OF_ROLE)}
        python = role.job.python if role.job.python_named else sys.executable
        setup = role.job.setup if role.setup else ()
        found.append(StepGroup(role.job, role.hosts, python, {**common, **own}, setup))
    return found


def plan_of_roles(
    roles: Sequence[RoleInJob],
    hosts: Sequence[str],
    cpus: Mapping[str, int],
    facts: Mapping[str, Mapping[str, Any]],
    run_id: str,
) -> Plan:
    """Return the plan of all roles. `hosts`: the names of all nodes, in order. Raises `InvalidRequest`."""
    plans, left = [], list(hosts)
    for role in roles:
        names, left = left[: len(role.hosts)], left[len(role.hosts) :]
        counts = _counts(role, names)
        own = [Host(name, cpus_of_tasks=cpus.get(name)) for name in names]
        nodes = nodes_of(role.job, own, counts, role.each, facts, threads_chosen=role.threads_chosen)
        plans.append((make_plan(role.job, nodes, run_id), role.main))
    return joined(plans)


def _counts(role: RoleInJob, names: Sequence[str]) -> Sequence[int | None]:
    """Return the number of ranks on each node; None where it follows from the GPUs. Raises `InvalidRequest`."""
    number = int(role.each) if role.each is not None and role.each.isdigit() else None
    counts: Sequence[int | None] = [None] * len(names)
    if number is not None:
        counts = assign_slots([HostSpec(name) for name in names], number, role.np)
    elif role.np is not None:
        counts = [role.np // len(names) + (index < role.np % len(names)) for index in range(len(names))]
    if 0 in counts:
        raise InvalidRequest(f"-n {role.np} leaves a node of role {role.job.role} without a rank", "use a smaller -N")
    return counts
