"""One plan of several: each role is planned as if it were alone, and gets the numbers after those of the one before.

So a role has its own RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, and neither its program nor its launcher needs a
change; the numbers of the plan, which logs and reports use, are unique in the run.
"""

from __future__ import annotations

from collections.abc import Sequence

from muster.core.model import Command, Late, Node, NodeEnvironment, Plan, Rank, Role
from muster.core.rank_env import interfaces
from muster.errors import InvalidRequest


def joined(plans: Sequence[tuple[Plan, bool]]) -> Plan:
    """Return one plan of several roles, each with its plan, and whether it is a main role. Raises `InvalidRequest`."""
    _check_clusters([plan for plan, _ in plans])
    several = len({host for plan, _ in plans for host in plan.hosts}) > 1
    nodes: list[Node] = []
    commands: list[Command] = []
    environments: list[NodeEnvironment] = []
    roles: list[Role] = []
    ranks = 0
    for plan, main in plans:
        node = len(nodes)
        (whole,) = plan.parts
        roles.append(whole._replace(first_node=node, first_rank=ranks, main=main))
        nodes += [_node(part, node, ranks) for part in plan.nodes]
        commands += [
            command._replace(node=command.node + node, ranks=_ranks(command.ranks, node, ranks))
            for command in plan.commands
        ]
        environments += [_environment(of, several) for of in plan.environments]
        ranks += plan.world_size
    return Plan(plans[0][0].job, tuple(nodes), tuple(commands), tuple(environments), roles=tuple(roles))


def _check_clusters(plans: Sequence[Plan]) -> None:
    """Raise `InvalidRequest` for two Ray clusters on a host: their workers would take the same ports."""
    used: dict[str, str] = {}
    for plan in plans:
        for host in dict.fromkeys(plan.hosts) if plan.job.launcher == "ray" else ():
            if host in used:
                raise InvalidRequest(
                    f"roles {used[host]} and {plan.job.role} both start Ray on {host}",
                    "give each role hosts of its own, or use another launcher for one of them",
                )
            used[host] = plan.job.role


def _node(node: Node, first_node: int, first_rank: int) -> Node:
    return node._replace(number=node.number + first_node, ranks=_ranks(node.ranks, first_node, first_rank))


def _ranks(ranks: Sequence[Rank], first_node: int, first_rank: int) -> tuple[Rank, ...]:
    return tuple(rank._replace(rank=rank.rank + first_rank, node=rank.node + first_node) for rank in ranks)


def _environment(of: NodeEnvironment, several: bool) -> NodeEnvironment:
    """Return the environment of a node that knows all roles, and reaches their hosts."""
    own = {name: value for name, value in of.env_defaults.items() if name not in {**interfaces(True)}}
    return of._replace(env={**of.env, "MUSTER_ROLES": Late.ROLES}, env_defaults={**own, **interfaces(several)})
