"""The rendezvous of a run's nodes: an address of node 0 that all others have reached, and the interfaces used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from muster.core.hostlist import fold_reasons
from muster.core.rank_env import interface_values
from muster.errors import Unreachable

Facts = Mapping[str, Any]
"""Facts that a host reported."""


class Rendezvous(NamedTuple):
    """The rendezvous of the nodes."""

    address: str
    """Address of node 0."""
    port: int
    """Port of its agent or controller; 0 if there is no other node."""
    interface_env: tuple[Mapping[str, str | None], ...]
    """For each node, the late values that name the interface to the others."""
    addresses: tuple[str, ...] = ()
    """The address of each node for the others, as far as it is known; empty where it was not looked for."""


LOOPBACK = Rendezvous("127.0.0.1", 0, ({},))
"""The rendezvous of a single node."""


def on_loopback(port: int, nodes: int) -> Rendezvous:
    """Return the rendezvous of several nodes on one machine."""
    return Rendezvous("127.0.0.1", port, (interface_values("lo", False),) * nodes, ("127.0.0.1",) * nodes)


def candidate_addresses(host: str, facts: Facts, env: Mapping[str, str]) -> list[str]:
    """Return the addresses of node 0 that the others should try; only of interfaces that the user named, if any.

    Raises `Unreachable`.
    """
    wanted = env["GLOO_SOCKET_IFNAME"].split(",") if "GLOO_SOCKET_IFNAME" in env else None
    found = [address for name, address in facts["interfaces"] if wanted is None or name in wanted]
    if not found:
        which = f"interface named {','.join(wanted)}" if wanted else "interface other than loopback"
        raise Unreachable(
            f"{host} has no {which}, so the other nodes cannot connect to it",
            f"list its interfaces with `ssh {host} ip address`",
        )
    # the address that ssh used comes first, since it is known to be reachable
    return sorted(found, key=lambda address: address != facts["reached_at"])


def choose_rendezvous(
    hosts: Sequence[str], facts: Sequence[Facts], addresses: Sequence[str], port: int, ways: Sequence[Facts]
) -> Rendezvous:
    """Return a rendezvous at the first address that all nodes reached. Raises `Unreachable`.

    `hosts` and `facts` are of all nodes, `ways` of all except the first.
    """
    own = {address: name for name, address in facts[0]["interfaces"]}
    for address in addresses:
        if all("error" not in way[address] for way in ways):
            names = [own[address], *(way[address]["interface"] for way in ways)]
            others = map(_address, facts[1:], names[1:])
            return Rendezvous(address, port, tuple(map(_values, facts, names)), (address, *others))
    best = max(addresses, key=lambda address: sum("error" not in way[address] for way in ways))
    told = fold_reasons((host, way[best]["error"]) for host, way in zip(hosts[1:], ways) if "error" in way[best])
    tried = ", ".join(f"{address} ({own[address]})" for address in addresses)
    raise Unreachable(
        f"the nodes cannot connect to {hosts[0]} for the rendezvous at {best} port {port} ({own[best]}): {told}",
        f"allow TCP between the nodes in the firewall; addresses tried: {tried}; "
        "choose another interface with `--env GLOO_SOCKET_IFNAME=NAME`",
    )


def _address(facts: Facts, interface: str) -> str:
    """Return the address of a node on this interface; empty if it has none."""
    return next((address for name, address in facts["interfaces"] if name == interface), "")


def _values(facts: Facts, name: str) -> dict[str, str | None]:
    return interface_values(name, several=len({known for known, _ in facts["interfaces"]}) > 1)
