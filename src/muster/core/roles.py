"""The roles of a run with several programs: the names of their ranks, and what each of them knows of the others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from muster.core.inspection import Snapshot
from muster.core.layout import fold, named
from muster.core.model import Late, Plan, Role, as_json
from muster.core.results import Failure, RankExit, RoleRanks

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
"""A name of a role: it stands in labels such as `trainer:0`, and in keys of JSON and TOML."""


def ranks_of(plan: Plan) -> tuple[RoleRanks, ...]:
    """Return the ranks of each role of a plan."""
    return tuple(RoleRanks(role.name, role.first_rank, role.ranks) for role in plan.roles)


def store_node(plan: Plan, node: int) -> int:
    """Return the node whose store the ranks of a node use: the first one of its role, or of the run."""
    role = plan.role_of(node)
    return 0 if role is None else role.first_node


def role_of(rank: int, roles: Sequence[RoleRanks]) -> RoleRanks | None:
    """Return the role of a rank; None without roles."""
    return next((role for role in roles if 0 <= rank - role.first < role.ranks), None)


def label(rank: int, roles: Sequence[RoleRanks]) -> str:
    """Return the name of a rank in its role, such as `trainer:0`; empty without roles."""
    role = role_of(rank, roles)
    return "" if role is None else f"{role.name}:{rank - role.first}"


def rank_in_words(rank: int, roles: Sequence[RoleRanks]) -> str:
    """Return `rank 5 (rollout:1)`; `rank 5` without roles."""
    name = label(rank, roles)
    return f"rank {rank} ({name})" if name else f"rank {rank}"


def named_in_roles(ranks: Iterable[int], roles: Sequence[RoleRanks]) -> str:
    """Return ranks for a sentence: `ranks 4-7 (rollout:0-3)`; `ranks 4-7` without roles."""
    ranks = sorted(set(ranks))
    inside = ((role, [rank - role.first for rank in ranks if role_of(rank, roles) is role]) for role in roles)
    parts = [f"{role.name}:{fold(numbers)}" for role, numbers in inside if numbers]
    return named(ranks) + (f" ({', '.join(parts)})" if parts else "")


def roles_record(roles: Iterable[Role]) -> dict[str, Any]:
    """Return what job.json has about the roles of a run; nothing without roles."""
    found = [{"name": role.name, "ranks": role.ranks, "program": as_json(role.job.program)} for role in roles]
    return {"roles": found} if found else {}


def secret_of_role(index: int, name: str) -> str:
    """Return the name under which a scheduler passes on a variable of one role, by the number of the role."""
    return f"{SECRET_OF_ROLE}{index}_{name}"


SECRET_OF_ROLE = "MUSTER_OF_ROLE_"


# ---- what ranks know of other roles ---------------------------------------------------------------------------------


def late_values(
    plan: Plan, node: int, addresses: Sequence[str], ports: Mapping[int, tuple[int, int]]
) -> dict[str, str]:
    """Return the late values of a node of a run with roles: the rendezvous of its role, and all roles.

    `addresses`: of each node. `ports`: by first node of a role, the port of its store, and another that is free.
    """
    own = plan.role_of(node)
    assert own is not None
    return {
        Late.MASTER_ADDR.key: addresses[own.first_node],
        Late.MASTER_PORT.key: str(ports[own.first_node][0]),
        Late.ROLES.key: json.dumps(_roles(plan, addresses, ports)),
    }


def _roles(plan: Plan, addresses: Sequence[str], ports: Mapping[int, tuple[int, int]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for role in plan.roles:
        nodes = plan.nodes[role.first_node : role.first_node + role.nodes]
        found[role.name] = {
            "hosts": [node.host.name for node in nodes],
            "addresses": [addresses[node.number] for node in nodes],
            "ranks": role.ranks,
            "ranks_per_node": [len(node.ranks) for node in nodes],
            "port": ports[role.first_node][1],
        }
    return found


# ---- the numbers that torch uses, which begin anew in each role -----------------------------------------------------


def snapshot_in(snapshot: Snapshot, role: RoleRanks) -> Snapshot:
    """Return what the ranks of a role did, with their numbers in it."""
    own = (found for found in snapshot.inspections if 0 <= found.rank - role.first < role.ranks)
    return snapshot._replace(inspections=tuple(found._replace(rank=found.rank - role.first) for found in own))


def exits_in(exits: Iterable[RankExit], role: RoleRanks) -> tuple[RankExit, ...]:
    """Return the exits of the ranks of a role, with their numbers in it."""
    return tuple(end._replace(rank=end.rank - role.first) for end in exits if 0 <= end.rank - role.first < role.ranks)


def with_run_ranks(failure: Failure | None, rank: int, roles: Sequence[RoleRanks]) -> Failure | None:
    """Return the failure of a rank with the numbers in the run of those that it blames, not those in its role."""
    role = role_of(rank, roles)
    if failure is None or role is None:
        return failure
    return failure._replace(blames=tuple(role.first + blamed for blamed in failure.blames))
