"""Assignment of ranks, GPUs, threads and cores to nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from muster.config.checks import check_limits
from muster.config.numa import numa_bindings
from muster.config.options import RunOptions
from muster.config.resolve import JobRequest
from muster.core.layout import layout
from muster.core.model import Host, Job, Node
from muster.errors import InvalidRequest
from muster.linux import hardware
from muster.linux.identity import identity


def ranks_there(each: str | None, cores: int, gpus: int, host: str) -> int:
    """Return the number of ranks for `-g` on a host with these cores and GPUs, if `-g` is not a number."""
    if each == "gpu" and not gpus:
        raise InvalidRequest(f"-g gpu: no GPUs on {host}", "use `-g cpu` or a number")
    if each == "cpu":
        return cores
    if each == "auto":
        return gpus or cores
    return max(1, gpus)


def _gpus(options: RunOptions) -> tuple[str, ...]:
    """Return the GPUs named by `--gpus`."""
    return tuple(piece.strip() for piece in (options.gpus or "").split(",") if piece.strip())


def ranks_wanted(options: RunOptions, env: Mapping[str, str]) -> int:
    """Return the number of ranks that `-g` requests on this machine."""
    wanted = options.nproc_per_node
    visible = _gpus(options) if options.gpus is not None else hardware.gpus(env)
    if wanted is None:
        return max(1, len(visible))
    if wanted == "gpu":
        if not visible:
            raise InvalidRequest("-g gpu: no GPUs on this machine", "use `-g cpu` or a number")
        return len(visible)
    if wanted == "cpu":
        return hardware.cores()
    if wanted == "auto":
        return len(visible) or hardware.cores()
    return int(wanted)


def local_nodes(asked: JobRequest, options: RunOptions, env: Mapping[str, str]) -> tuple[Node, ...]:
    """Return the single node for this machine. Raises `InvalidRequest`."""
    count = options.np if options.np is not None else ranks_wanted(options, env)
    if options.np is not None and asked.ranks_per_node is not None and ranks_wanted(options, env) != count:
        raise InvalidRequest(
            f"-n {count} with -g {asked.ranks_per_node}: on one node both are the number of ranks, and they differ",
            "leave out one of them",
        )
    check_limits(count)
    _check_ranks(count, asked.job, options.ranks or ())
    host = Host(
        identity()["host"],
        gpus=_gpus(options),
        threads=0 if asked.threads_chosen else max(1, hardware.cores() // count),
        cpus=numa_bindings(asked.job.binding, count) if asked.job.binding else (),
    )
    return layout([(host, count)])


def hosts_to_reach(asked: JobRequest) -> tuple[Host, ...]:
    """Return the named hosts, as far as they are known before they are contacted."""
    return tuple(
        Host(
            host.name,
            user=host.user,
            python=asked.pythons.get(host.name, ""),
            setup=asked.setups.get(host.name, ()),
            gpus=host.gpus,
        )
        for host in asked.hosts
    )


def remote_nodes(
    asked: JobRequest, facts: Mapping[str, Mapping[str, Any]] | None, shown: Sequence[int] = ()
) -> tuple[Node, ...]:
    """Return the nodes for the named hosts; `facts` are the hosts' facts, None if they were not contacted.

    Raises `InvalidRequest`, also if a rank to be `shown` does not exist.
    """
    count = len(asked.hosts) - asked.job.spare_nodes
    counts = [wanted.slots for wanted in asked.hosts[:count]]
    hosts = hosts_to_reach(asked)[:count]
    return nodes_of(asked.job, hosts, counts, asked.ranks_per_node, facts, asked.threads_chosen, shown)


def spares_of(asked: JobRequest) -> tuple[Host, ...]:
    """Return the spare hosts."""
    return hosts_to_reach(asked)[len(asked.hosts) - asked.job.spare_nodes :] if asked.hosts else ()


def nodes_of(
    job: Job,
    hosts: Sequence[Host],
    counts: Sequence[int | None],
    each: str | None,
    facts: Mapping[str, Mapping[str, Any]] | None,
    threads_chosen: bool,
    shown: Sequence[int] = (),
) -> tuple[Node, ...]:
    """Return the nodes for these hosts with `counts` ranks each; None means by `each` (`-g`) and the host's facts."""
    found = []
    for host, count in zip(hosts, counts):
        told = facts[host.name] if facts is not None else None
        if count is None:
            if told is None:
                raise InvalidRequest(
                    f"the number of ranks on {host.name} is unknown until muster asks for its number of GPUs",
                    "set it for the plan, for example `-g 8` or `--hosts n1:8,n2:8`",
                )
            count = ranks_there(each, told["cores"], len(told["gpus"]), host.name)
        if not threads_chosen:
            host = host._replace(threads=None if told is None else max(1, told["cores"] // count))
        found.append((host, count))
    nodes = layout(found)
    _check_ranks(sum(len(node.ranks) for node in nodes), job, shown)
    return nodes


def _check_ranks(count: int, job: Job, shown: Sequence[int]) -> None:
    for option, ranks in (("--stdin", () if job.stdin is None else (job.stdin,)), ("--ranks", shown)):
        wrong = [rank for rank in ranks if rank >= count]
        if wrong:
            raise InvalidRequest(f"{option} {wrong[0]}: no such rank", f"the ranks are 0 to {count - 1}")
