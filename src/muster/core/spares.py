"""Spare hosts: which hosts are left out at the start, and plans in which spares have the places of lost hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median_high, mode
from typing import Any, NamedTuple

from muster.core.model import Host, Node, Plan
from muster.core.results import Replaced


class Arrangement(NamedTuple):
    """The order of hosts in which the first ones run the ranks, and the others are spares."""

    order: tuple[int, ...]
    """The index of each host in the order before."""
    replaced: tuple[Replaced, ...] = ()
    unused: tuple[tuple[str, str], ...] = ()
    """Spares that are not usable either: name and reason."""


def arrange(hosts: Sequence[str], nodes: int, unfit: Mapping[str, str]) -> Arrangement | None:
    """Return hosts with spares in the places of unfit ones; None if there are too few spares.

    `hosts`: those for the `nodes`, followed by the spares. `unfit`: why hosts cannot be used, by name. All other hosts
    keep their places, so that their ranks stay the same.
    """
    left = [index for index in range(nodes, len(hosts)) if hosts[index] not in unfit]
    order, replaced = [], []
    for node, host in enumerate(hosts[:nodes]):
        if host not in unfit:
            order.append(node)
        elif left:
            order.append(left.pop(0))
            replaced.append(Replaced(node, host, hosts[order[-1]], unfit[host]))
        else:
            return None
    unused = tuple((host, unfit[host]) for host in hosts[nodes:] if host in unfit)
    return Arrangement((*order, *left), tuple(replaced), unused)


def unfit_hosts(
    told: Mapping[str, Mapping[str, Any]], script: str, own: str, gpus: Mapping[str, int | None], sent: bool
) -> dict[str, str]:
    """Return why hosts cannot run the ranks, by name, from the facts that they reported.

    `script` and `own`: its name and the digest of the copy here. `gpus`: by name the number of ranks, which are to have
    a GPU each; None for one for each GPU that the hosts usually have. `sent`: the code will be sent.
    """
    usual = median_high([len(facts["gpus"]) for facts in told.values()]) if told else 0
    python = mode(map(_minor, told.values())) if told else ""  # that of most hosts, of the first ones of as many
    found = {}
    for host, facts in told.items():
        wanted = gpus.get(host)
        needed = usual if wanted is None else min(usual, wanted)
        if facts["unwritable"]:
            found[host] = f"cannot create the run directory: {facts['unwritable']}"
        elif not sent and not facts["cwd"]:
            found[host] = "the working directory does not exist there"
        elif not sent and script and facts["script"] != own:
            found[host] = f"script {script} not found" if not facts["script"] else f"script {script} differs"
        elif len(facts["gpus"]) < needed:
            found[host] = f"{len(facts['gpus'])} of {needed} GPUs"
        elif _minor(facts) != python:
            found[host] = f"Python {_minor(facts)} instead of {python}"
    return found


def _minor(facts: Mapping[str, Any]) -> str:
    return ".".join(str(facts["python"]).split(".")[:2])


def with_spare(plan: Plan, node: int, spare: int) -> Plan:
    """Return the plan in which a spare, numbered from 0, has the place of a node."""
    return _with_hosts(plan, {node: plan.spares[spare]})


def as_planned(plan: Plan, hosts: Sequence[str]) -> Plan:
    """Return the plan with the hosts by these names, for a controller that repeats what happened since the start.

    An empty name stands for the present host.
    """
    return _with_hosts(plan, {node: Host(name) for node, name in enumerate(hosts) if name})


def _with_hosts(plan: Plan, hosts: Mapping[int, Host]) -> Plan:
    def changed(node: Node) -> Node:
        host = hosts.get(node.number, node.host)
        return node if host.name == node.host.name else node._replace(host=host)

    return plan._replace(nodes=tuple(map(changed, plan.nodes)))
