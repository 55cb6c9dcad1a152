"""From the roles of a run to its nodes and its plan. A run with one program is one part without a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from muster.config.nodes import hosts_to_reach, local_nodes, remote_nodes
from muster.config.options import RunOptions
from muster.config.resolve import RoleRequest
from muster.config.roles import shared
from muster.core.model import Host, Job, Node, Plan
from muster.errors import InvalidRequest
from muster.launchers import make_plan
from muster.linux import hardware
from muster.runner.context import RunContext

Parts = Sequence[tuple[Node, ...]]
"""The nodes of each role, numbered from 0 in it."""


def members_of(context: RunContext) -> tuple[RoleRequest, ...]:
    """Return the roles of a run; the whole run if it has one program."""
    return context.asked.roles or (RoleRequest(context.asked, context.options),)


def nodes_here(members: Sequence[RoleRequest], env: Mapping[str, str]) -> Parts:
    """Return the nodes on this machine: one for each role. Raises `InvalidRequest`."""
    parts = [local_nodes(asked, options, env) for asked, options in members]
    for asked, options in members if len(members) > 1 else ():
        if (options.nodes or 1) > 1:
            raise InvalidRequest(
                f"role {asked.job.role}: -N {options.nodes} needs hosts", "name hosts with --hosts, or leave out -N"
            )
    name = parts[0][0].host.name
    return shared(parts, members, {name: hardware.gpus(env)}, {name: hardware.cores()})


def nodes_there(members: Sequence[RoleRequest], facts: Mapping[str, Mapping[str, Any]] | None) -> Parts:
    """Return the nodes on the named hosts; see `remote_nodes`. Raises `InvalidRequest`."""
    parts = [
        remote_nodes(asked, facts, (options.ranks or ()) if len(members) == 1 else ()) for asked, options in members
    ]
    if len(members) == 1 or facts is None:
        return parts
    gpus = {name: told["gpus"] for name, told in facts.items()}
    return shared(parts, members, gpus, {name: told["cores"] for name, told in facts.items()})


def hosts_of(members: Sequence[RoleRequest], here: Parts | None) -> list[tuple[Job, Host]]:
    """Return the hosts of all roles, each with what it runs, before anything is known of them."""
    if here is not None:
        return [(member.asked.job, node.host) for member, nodes in zip(members, here) for node in nodes]
    return [(member.asked.job, host) for member in members for host in hosts_to_reach(member.asked)]


def plan_of(members: Sequence[RoleRequest], parts: Parts, run_id: str) -> Plan:
    """Return the plan of a run. Raises `InvalidRequest`."""
    plans = [make_plan(member.asked.job, nodes, run_id) for member, nodes in zip(members, parts)]
    if len(plans) == 1:
        return plans[0]
    from muster.launchers.roles import joined

    return joined([(plan, member.options.main) for plan, member in zip(plans, members)])


def check_ranks(plan: Plan, options: RunOptions) -> None:
    """Raise `InvalidRequest` for a rank to be shown that a run with roles does not have."""
    wrong = [rank for rank in options.ranks or () if rank >= plan.world_size]
    if wrong:
        raise InvalidRequest(f"--ranks {wrong[0]}: no such rank", f"the ranks are 0 to {plan.world_size - 1}")
