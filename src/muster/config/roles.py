"""A run with several programs: its command line, and what it requests.

`muster run --role trainer -N 2 train.py : --role rollout serve.py`: the parts between the colons are command lines of
their own. Options that concern one role stand in its part; all others stand in the first one, and hold for the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from muster.config.hosts import named_hosts, with_slots
from muster.config.options import RunOptions
from muster.config.parse import ParsedArgs
from muster.config.record import Option
from muster.config.resolve import JobRequest, RoleRequest, make_job
from muster.core.hostlist import HostSpec, filter_hosts, fold_hostlist
from muster.core.model import ROLE, Node
from muster.core.plurals import plural
from muster.core.roles import NAME
from muster.errors import InvalidRequest
from muster.runtimes import RUNTIMES, runtime
from muster.schedulers import SCHEDULERS, get_scheduler, typed

OF_ROLE: frozenset[str] = frozenset(
    option.key
    for option in (
        *(RunOptions.hosts, RunOptions.hostfile, RunOptions.include, RunOptions.exclude, RunOptions.nnodes),
        *(
            RunOptions.launcher,
            RunOptions.launcher_args,
            RunOptions.python,
            RunOptions.preload,
            RunOptions.no_auto_preload,
            RunOptions.setup,
        ),
        *(RunOptions.wrap, RunOptions.nproc_per_node, RunOptions.np, RunOptions.module, RunOptions.no_python),
        *(RunOptions.cwd, RunOptions.env, RunOptions.role, RunOptions.main, RunOptions.gpus, RunOptions.numa_binding),
        *(option for name in RUNTIMES for option in runtime(name).options.table),
    )
)
"""The keys of options that each role has for itself."""

_NAMING: tuple[Option[Any], ...] = (RunOptions.hosts, RunOptions.hostfile)

_EXCLUDED: tuple[Option[Any], ...] = (
    *(RunOptions.sweep, RunOptions.array, RunOptions.chain, RunOptions.max_parallel, RunOptions.resubmit),
    *(RunOptions.on, RunOptions.spare_nodes, RunOptions.stdin, RunOptions.tty),
)
"""Options that a run with roles cannot have."""


def split(words: Sequence[str]) -> list[list[str]]:
    """Split a command line at each `:` that is followed by `--role`; any other one is an argument of a script."""
    parts: list[list[str]] = [[]]
    for index, word in enumerate(words):
        after = words[index + 1] if index + 1 < len(words) else ""
        if word == ":" and after.partition("=")[0] == "--role":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def check_part(parsed: ParsedArgs, options: RunOptions) -> None:
    """Raise `InvalidRequest` for an option of the whole run in the part of a role that is not the first."""
    for option in options.table:
        if option.key in parsed.options and option.key not in OF_ROLE:
            raise InvalidRequest(
                f"{option.long_name} after `:` holds for the whole run, not for role {options.role}",
                "write it before the first `:`",
            )


def make_roles(
    lines: Sequence[tuple[ParsedArgs, RunOptions]],
    env: Mapping[str, str],
    verb: str,
    warn: Callable[[str], object],
    brought: Sequence[str] = (),
) -> JobRequest:
    """Return the request for a run with these roles. Raises `InvalidRequest`.

    `brought`: for each role the source of one of muster's own scripts, empty for another program; none without any.
    """
    found = []
    hosts_of = _hosts_of([options for _, options in lines])
    for (parsed, options), hosts, source in zip(lines, hosts_of, brought or [""] * len(lines)):
        options = options.without(RunOptions.ranks)
        asked = make_job(parsed, options, env, verb, source, warn, hosts)
        # also here on this machine, where the roles have an agent each
        found.append(RoleRequest(asked._replace(job=asked.job._replace(lease=options.lease)), options))
    first = found[0].asked
    each = in_job([options for _, options in lines]).get("nproc_per_node")
    hosts = tuple(host for role in found for host in role.asked.hosts)
    return first._replace(hosts=hosts, roles=tuple(found), ranks_per_node=each)


def check_lines(lines: Sequence[tuple[ParsedArgs, RunOptions]]) -> None:
    """Raise `InvalidRequest` for roles without names of their own, and for what a run with roles cannot have."""
    names = [options.role for _, options in lines]
    for name in names:
        if name == ROLE:
            raise InvalidRequest("each program of a run with roles needs a name", "add `--role NAME` to each of them")
        if not NAME.fullmatch(name):
            raise InvalidRequest(
                f"invalid name of a role: `{name}`",
                "begin with a letter, and use at most 63 letters, digits, `_`, `.` and `-`: `[A-Za-z][A-Za-z0-9_.-]*`",
            )
        if names.count(name) > 1:
            raise InvalidRequest(f"two roles have the name {name}", "give each another name")
    for parsed, options in lines:
        check_program(parsed, options)
    options = lines[0][1]
    if options.scheduled:
        _check_in_job([options for _, options in lines])
    wrong = next((option for option in _EXCLUDED if options.given(option)), None)
    if wrong is not None:
        raise InvalidRequest(f"{wrong.long_name} cannot be combined with roles", "leave it out")
    if options.after and options.detach and not options.scheduled:
        raise InvalidRequest("--after cannot be combined with --detach and roles", "leave out --detach")


def check_program(parsed: ParsedArgs, options: RunOptions) -> None:
    """Raise `InvalidRequest` for a role without a program."""
    if not parsed.operands:
        raise InvalidRequest(
            f"role {options.role} has no program",
            f"write it after the options: `--role {options.role} train.py`; or set `command` in a table "
            f"`[roles.{options.role}]` of muster.toml",
        )


def _check_in_job(lines: Sequence[RunOptions]) -> None:
    """Raise `InvalidRequest` for what roles in a job of a scheduler cannot have."""
    scheduler = lines[0].scheduled
    if not get_scheduler(scheduler).divides:
        others = [typed(name) for name in SCHEDULERS if get_scheduler(name).divides]
        hint = f"use hosts over ssh, or {' or '.join(others)}"
        raise InvalidRequest(f"{typed(scheduler)} cannot be combined with roles", hint)
    for options in lines:
        if options.gpus is not None:
            raise InvalidRequest(
                f"role {options.role}: --gpus cannot be combined with {typed(scheduler)} and roles",
                "request GPUs for all nodes with --gpus-per-node",
            )


def in_job(lines: Sequence[RunOptions]) -> dict[str, Any]:
    """Return the options by which a scheduler gives all roles their nodes, by key: it knows one size of nodes."""
    each = [options.nproc_per_node for options in lines]
    numbers = [int(number) for number in each if number is not None and number.isdigit()]
    size = {"nproc_per_node": str(max(numbers))} if len(numbers) == len(lines) else {}
    return {"nnodes": str(sum(options.nodes or 1 for options in lines)), **size}


def _hosts_of(lines: Sequence[RunOptions]) -> list[tuple[HostSpec, ...] | None]:
    """Return the hosts of each role; None where its own options name them, or there are none.

    Hosts that only the first part names are divided between the roles in order, `-N` for each.
    """
    first, others = lines[0], lines[1:]
    naming = [options.given(*_NAMING) for options in others]
    if not first.given(*_NAMING) or first.scheduled:
        missing = [options.role for options, names in zip(others, naming) if names]
        if missing and not first.scheduled:
            raise InvalidRequest(
                f"role {missing[0]} has hosts, and role {first.role} has none",
                "name hosts for each role, or all of them with the first one",
            )
        return [None] * len(lines)
    if all(naming):
        return [None] * len(lines)
    if any(naming):
        without = next(options.role for options, names in zip(others, naming) if not names)
        raise InvalidRequest(
            f"role {without} has no hosts", "name hosts for each role, or all of them with the first one"
        )
    pool = filter_hosts(named_hosts(first.hosts, first.hostfile, first.cwd or ""), first.include, first.exclude)
    counts = [options.nodes or 1 for options in lines]
    needed = sum(counts)
    if needed > len(pool):
        told = ", ".join(f"{options.role} {count}" for options, count in zip(lines, counts))
        raise InvalidRequest(
            f"the roles need {plural(needed, 'host')} ({told}), {len(pool)} given",
            "name more hosts, or use a smaller -N",
        )
    if needed < len(pool) and any(options.nnodes is None for options in lines):
        left = fold_hostlist(host.name for host in pool[needed:])
        verb = "belongs" if needed + 1 == len(pool) else "belong"
        raise InvalidRequest(
            f"{left} {verb} to no role", "set the number of hosts of each role with `-N`; without it a role has one"
        )
    found: list[tuple[HostSpec, ...] | None] = []
    for options, count in zip(lines, counts):
        found.append(with_slots(pool[:count], options))
        pool = pool[count:]
    return found


# ---- roles that share a host ----------------------------------------------------------------------------------------


def shared(
    parts: Sequence[tuple[Node, ...]],
    roles: Sequence[RoleRequest],
    gpus: Mapping[str, Sequence[str]],
    cores: Mapping[str, int],
) -> list[tuple[Node, ...]]:
    """Return the nodes of each role, with the GPUs and cores of a host divided between those that are on it.

    `gpus`, `cores`: of each host, as far as they are known. GPUs are divided if no role names them, and there is one
    for each rank.
    """
    on_host: dict[str, list[tuple[Node, RoleRequest]]] = {}
    for nodes, role in zip(parts, roles):
        for node in nodes:
            on_host.setdefault(node.host.name, []).append((node, role))
    left = {name: list(gpus.get(name, ())) for name, found in on_host.items() if _divides(found, gpus.get(name, ()))}

    def of(node: Node, role: RoleRequest) -> Node:
        host, own, beside = node.host, len(node.ranks), on_host[node.host.name]
        if host.name in left and _takes_gpus(role):
            host = host._replace(gpus=tuple(left[host.name][:own]))
            del left[host.name][:own]
        if host.threads and len(beside) > 1 and host.name in cores:
            host = host._replace(threads=max(1, cores[host.name] // sum(len(other.ranks) for other, _ in beside)))
        return node._replace(host=host)

    return [tuple(of(node, role) for node in nodes) for nodes, role in zip(parts, roles)]


def _takes_gpus(role: RoleRequest) -> bool:
    return "CUDA_VISIBLE_DEVICES" not in role.asked.job.env


def _divides(found: Sequence[tuple[Node, RoleRequest]], gpus: Sequence[str]) -> bool:
    """Return whether the GPUs of a host are divided between these roles."""
    needed = sum(len(node.ranks) for node, role in found if _takes_gpus(role))
    return len(found) > 1 and not any(node.host.gpus for node, _ in found) and needed <= len(gpus)
