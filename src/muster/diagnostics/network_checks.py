"""Doctor's checks of the network: names, addresses, connections and interfaces. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from muster.core.fold import by_value
from muster.diagnostics.findings import ClusterFacts, Facts, Finding, differ, odd

SLOW_NAME = 0.1

SLOW_REFUSAL = 2.0


def slow_names(cluster: ClusterFacts) -> Iterator[Finding]:
    """Find names of hosts that are unknown on a host, or slow to look up."""
    for host, facts in cluster.facts.items():
        for name, told in facts["names"].items():
            if "hangs" in told or told.get("seconds", 0.0) > 4.0:
                took = told.get("hangs") or told["seconds"]
                yield Finding(
                    "error",
                    host,
                    f"resolving {name} takes {took:.1f}s",
                    "delays each connection between ranks",
                    "add a line for each host to /etc/hosts, or set `hosts: files` in /etc/nsswitch.conf",
                )
            elif "error" in told:
                yield Finding(
                    "warning",
                    host,
                    f"cannot resolve {name}: {told['error']}",
                    "launchers that pass host names (mpirun, deepspeed, Ray) fail; muster passes addresses",
                    "add a line for each host to /etc/hosts",
                )
            elif told["seconds"] > SLOW_NAME:
                yield Finding(
                    "warning",
                    host,
                    f"resolving {name} takes {told['seconds']:.2f}s",
                    "delays each connection between ranks",
                    "add a line for each host to /etc/hosts",
                )


def slow_refusals(cluster: ClusterFacts) -> Iterator[Finding]:
    """Find a name server that does not answer for unknown names."""
    for host, facts in cluster.facts.items():
        took = facts["nobody"].get("hangs", facts["nobody"].get("seconds", 0.0))
        if took > SLOW_REFUSAL:
            yield Finding(
                "warning",
                host,
                f"resolving an unknown name or address takes {took:.1f}s to fail",
                "a DNS server does not answer, and torch does reverse lookups",
                "check /etc/resolv.conf, or set `hosts: files` in /etc/nsswitch.conf",
            )


def ambiguous_names(cluster: ClusterFacts) -> Iterator[Finding]:
    """Find names that have different addresses on different hosts."""
    seen: dict[str, dict[str, list[str]]] = {}
    for host, facts in cluster.facts.items():
        for name, told in facts["names"].items():
            if told.get("addresses") and name != host:
                seen.setdefault(name, {}).setdefault(", ".join(told["addresses"]), []).append(host)
    for name, answers in seen.items():
        real = {address for _, address in cluster.facts.get(name, {}).get("interfaces", ())}
        wrong = [host for told, hosts in answers.items() if not real & set(told.split(", ")) for host in hosts]
        # names of another kind, such as ssh's own, are not among the addresses that the machine reports
        for host in wrong if wrong and len(wrong) < sum(map(len, answers.values())) else odd(answers):
            why = "hosts connect to different machines by that name"
            yield Finding(
                "error", host, f"{name} resolves to {differ(answers)}", why, "use the same /etc/hosts on all hosts"
            )


def own_name(cluster: ClusterFacts) -> Iterator[Finding]:
    """Find hosts whose own name has no address, or a loopback address."""
    for host, facts in cluster.facts.items():
        addresses = facts["own"].get("addresses", [])
        if "error" in facts["own"]:
            yield Finding(
                "warning",
                host,
                f"cannot resolve its own hostname: {facts['own']['error']}",
                "gloo fails to resolve it; muster sets the interface instead",
                "add a line for it to /etc/hosts",
            )
        if len(cluster.facts) > 1 and any(address.startswith("127.") for address in addresses):
            yield Finding(
                "warning",
                host,
                f"its own hostname resolves to {', '.join(addresses)}",
                "gloo and some launchers advertise it, so other hosts connect to themselves; muster sets the "
                "interface instead",
                f"remove the line with 127.0.1.1 from /etc/hosts of {host}, or set the real address of the name",
            )


def connections(cluster: ClusterFacts) -> Iterator[Finding]:
    """Report each broken route at the host that is part of most of them: a firewall there breaks all routes to it."""
    broken = {pair: why for pair, why in cluster.ways.items() if why}
    while broken:
        counts = Counter(host for pair in broken for host in pair)
        worst = max(cluster.facts, key=lambda host: counts[host])
        for pair in [pair for pair in broken if worst in pair]:
            start, end = pair
            words = f"cannot connect to {end}" if start == worst else f"{start} cannot connect to it"
            yield Finding(
                "error",
                worst,
                f"{words}: {broken.pop(pair)}",
                "ranks connect to each other on ephemeral ports",
                "allow TCP between the nodes, on all ports from 1024",
            )


def mtu(cluster: ClusterFacts) -> Iterator[Finding]:
    """Find MTUs that differ between hosts."""
    sizes = by_value(
        (host, facts["mtus"][name]) for host, facts in cluster.facts.items() for name, _ in facts["interfaces"][:1]
    )
    for host in odd(sizes):
        why = "large messages may be lost silently"
        yield Finding("warning", host, f"MTU differs: {differ(sizes)}", why, "set the same MTU on all hosts")


def gloo_interface(facts: Facts) -> str:
    """Return gloo's default interface: the one with the address of the machine's own name."""
    asked = facts["env"].get("GLOO_SOCKET_IFNAME")
    own = facts["own"].get("addresses", [])
    return asked or next((name for name, address in facts["interfaces"] if address in own), "lo" if own else "none")


def nccl_interface(facts: Facts) -> str:
    """Return NCCL's default interface: InfiniBand, otherwise the first that is neither loopback nor docker's."""
    names = [name for name, _ in facts["interfaces"]]
    fit = [name for name in names if name.startswith("ib")]
    fit += [name for name in names if not name.startswith(("ib", "lo", "docker"))]
    fit += [name for name in names if name.startswith("docker")]
    return facts["env"].get("NCCL_SOCKET_IFNAME") or next(iter(fit), "lo")


def interfaces(cluster: ClusterFacts) -> Iterator[Finding]:
    """Find interfaces that gloo or NCCL choose by default and that reach no other host."""
    if len(cluster.facts) < 2:
        return
    for host, facts in cluster.facts.items():
        ways = dict(facts["interfaces"])
        for library, variable, chosen in (
            ("gloo", "GLOO_SOCKET_IFNAME", gloo_interface(facts)),
            ("NCCL", "NCCL_SOCKET_IFNAME", nccl_interface(facts)),
        ):
            others = [address for name, address in facts["interfaces"] if name != chosen]
            if (
                variable not in facts["env"]
                and chosen in ways
                and not _near(ways[chosen], cluster, host)
                and any(_near(address, cluster, host) for address in others)
            ):
                yield Finding(
                    "warning",
                    host,
                    f"{library} uses {chosen} ({ways[chosen]}) by default, and no other host is in that network",
                    "without muster, ranks cannot connect to each other; muster sets the interface that works",
                    f"set {variable} to the interface that the other hosts reach",
                )


def _near(address: str, cluster: ClusterFacts, host: str) -> bool:
    """Return whether another machine has an address with the same first half (IPv4)."""
    return any(
        address.split(".")[:2] == found.split(".")[:2]
        for other, facts in cluster.facts.items()
        if other != host
        for _, found in facts["interfaces"]
    )
