"""The rendezvous of a run: an address of node 0 that all others reach, and an interface of each node."""

from __future__ import annotations

from typing import Any

import pytest

from muster.core.rendezvous import Rendezvous, candidate_addresses, choose_rendezvous
from muster.errors import Unreachable

ETH, IB, DOCKER, SIX = "10.0.0.1", "10.1.0.1", "172.17.0.1", "fd00::1"
FIRST: dict[str, Any] = {
    "interfaces": [("docker0", DOCKER), ("eth0", ETH), ("ib0", IB), ("eth0", SIX)],
    "reached_at": ETH,
}
"""Facts of node 0."""


@pytest.mark.parametrize(
    ("wanted", "reached_at", "expected"),
    [
        pytest.param(None, ETH, [ETH, DOCKER, IB, SIX], id="where ssh came in is first"),
        pytest.param(None, "", [DOCKER, ETH, IB, SIX], id="nobody knows where ssh came in"),
        pytest.param(None, "192.0.2.7", [DOCKER, ETH, IB, SIX], id="ssh came in by a gateway"),
        pytest.param("ib0", ETH, [IB], id="the interface that was named"),
        pytest.param("eth0", ETH, [ETH, SIX], id="all its addresses"),
        pytest.param("ib0,eth0", ETH, [ETH, IB, SIX], id="several were named"),
    ],
)
def test_addresses_that_are_tried(wanted: str | None, reached_at: str, expected: list[str]) -> None:
    env = {} if wanted is None else {"GLOO_SOCKET_IFNAME": wanted}
    assert expected == candidate_addresses("n1", {**FIRST, "reached_at": reached_at}, env)


@pytest.mark.parametrize(
    ("interfaces", "env", "said"),
    [
        ([], {}, "n1 has no interface other than loopback, so the other nodes cannot connect to it"),
        (
            FIRST["interfaces"],
            {"GLOO_SOCKET_IFNAME": "eth1,eth2"},
            "n1 has no interface named eth1,eth2, so the other nodes cannot connect to it",
        ),
    ],
)
def test_no_address_to_try(interfaces: Any, env: dict[str, str], said: str) -> None:
    with pytest.raises(Unreachable, match=said) as raised:
        candidate_addresses("n1", {**FIRST, "interfaces": interfaces}, env)
    assert "list its interfaces with `ssh n1 ip address`" == raised.value.hint


def ways(interface: str, *failed: str, why: str = "timed out") -> dict[str, Any]:
    """Return the results of another node: these addresses fail, and the rest are reached by this interface."""
    every = (ETH, IB, DOCKER, SIX)
    return {address: {"error": why} if address in failed else {"interface": interface} for address in every}


OTHER: dict[str, Any] = {"interfaces": [("eth0", "10.0.0.2")], "reached_at": "10.0.0.2"}
"""A node with one interface."""


def met(*found: dict[str, Any], addresses: tuple[str, ...] = (ETH, IB, DOCKER)) -> Rendezvous:
    """Return the rendezvous for these results; all nodes but node 0 have one interface."""
    hosts = [f"n{number + 1}" for number in range(len(found) + 1)]
    return choose_rendezvous(hosts, [FIRST, *[OTHER] * len(found)], addresses, 4711, found)


def test_the_first_address_that_all_reach_is_taken() -> None:
    """Not the one that most of them reach first."""
    assert (ETH, 4711) == met(ways("eth0"), ways("eth0"))[:2]
    assert IB == met(ways("eth0"), ways("eth0", ETH)).address
    assert DOCKER == met(ways("eth0", IB), ways("eth0", ETH)).address
    assert SIX == met(ways("eth0"), addresses=(SIX, ETH)).address


def test_each_node_is_told_its_interface_and_nccl_only_where_there_is_a_choice() -> None:
    one, other = met(ways("eth0", ETH)).interface_env
    assert ["ib0", "ib0"] == list(one.values()), "that of the address that was chosen"
    assert ["eth0", None] == list(other.values())


def test_an_unknown_interface_is_not_named() -> None:
    """The kernel did not report which one was used."""
    assert [None, None] == list(met(ways("")).interface_env[1].values())


def test_nodes_that_cannot_meet_are_told_with_the_best_address_and_why() -> None:
    with pytest.raises(Unreachable) as raised:
        met(
            ways("eth0", ETH, DOCKER),
            ways("eth0", ETH, IB, DOCKER, why="connection refused"),
            ways("eth0", IB, ETH, DOCKER, why="connection refused"),
        )
    assert (
        "the nodes cannot connect to n1 for the rendezvous at 10.1.0.1 port 4711 (ib0): n[3-4]: connection refused"
        == raised.value.sentence
    )
    hint = raised.value.hint
    assert "addresses tried: 10.0.0.1 (eth0), 10.1.0.1 (ib0), 172.17.0.1 (docker0)" in hint
    assert "`--env GLOO_SOCKET_IFNAME=NAME`" in hint
