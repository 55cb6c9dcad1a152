"""Which options belong to a session, and which to the runs on it (`--on`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from muster import runtimes
from muster.config.command_options import HoldOptions
from muster.config.options import RunOptions
from muster.config.record import Option
from muster.core.layout import layout
from muster.core.model import Node, Plan
from muster.core.plurals import plural
from muster.errors import InvalidRequest
from muster.schedulers import choosing, get_scheduler, of_scheduler, title

OF_SESSION: tuple[Option[Any], ...] = (
    *(RunOptions.hosts, RunOptions.hostfile, RunOptions.nnodes, RunOptions.include, RunOptions.exclude),
    *(RunOptions.spare_nodes, RunOptions.gpus, RunOptions.numa_binding),
    *(RunOptions.python, RunOptions.setup, RunOptions.ssh),
)
"""Options of `muster hold` that `muster run --on` takes from it."""

_COUNTS: tuple[Option[Any], ...] = (RunOptions.np, RunOptions.nproc_per_node, RunOptions.nnodes)
"""Options with the number of ranks or nodes: a run may have fewer than its session."""


def _belongs(option: Option[Any], options: RunOptions) -> bool:
    return option in OF_SESSION or option in choosing(options) or bool(of_scheduler(option))


def options_of_session(options: RunOptions) -> dict[str, Any]:
    """Return the values of the options of `muster hold` that the runs on the session take from it."""
    wanted = (*OF_SESSION, RunOptions.nproc_per_node)
    chosen = {RunOptions.scheduler.key: options.scheduled} if options.scheduled else {}
    return {**chosen, **{option.key: options.value(option) for option in wanted if options.given(option)}}


def with_session(options: RunOptions, session: Mapping[str, Any]) -> RunOptions:
    """Return the options of a run on this session. Raises `InvalidRequest` for those that contradict it."""
    for option in options.all_given("argv"):
        if _belongs(option, options) and option not in _COUNTS:
            raise InvalidRequest(
                f"{option.long_name} cannot be combined with --on: it belongs to the session",
                f"leave it out, or hold another session: muster hold {option.long_name} …",
            )
    options = options.without(*(option for option in options.all_given() if _belongs(option, options)), *_COUNTS)
    given = [(options.source(option), {option.key: options.value(option)}) for option in options.all_given()]
    known = {option.key for option in RunOptions.table}
    return type(options)(*given, ("session", {key: value for key, value in session.items() if key in known}))


def nodes_of_run(options: RunOptions, name: str, plan: Plan) -> tuple[Node, ...]:
    """Return the nodes of a run on this session: all, or the first ones with fewer ranks, by -N, -g and -n as typed.

    Raises `InvalidRequest`.
    """
    number, each, total = (options.value(option) if options.typed(option) else None for option in _NUMBERS)
    nodes = plan.nodes
    if number is not None:
        nodes = nodes[
            : _at_most(f"-N {number}", number, len(nodes), f"the session {name} has {plural(len(nodes), 'node')}")
        ]
    held = [len(node.ranks) for node in nodes]
    counts = held
    if each is not None:
        count = _at_most(f"-g {each}", each, min(held), f"the session {name} has {_ranks_in_words(nodes)}")
        counts = [count for _ in nodes]
    if total is not None:
        left = _at_most(f"-n {total}", total, sum(counts), f"there are {plural(sum(counts), 'rank')} on {name}")
        counts = [max(0, min(count, left - sum(counts[:before]))) for before, count in enumerate(counts)]
    for option, ranks in ((RunOptions.stdin, [options.stdin or 0]), (RunOptions.ranks, options.ranks or ())):
        wrong = [rank for rank in ranks if rank >= sum(counts)]
        if wrong:
            raise InvalidRequest(
                f"{option.long_name} {wrong[0]}: no such rank", f"the ranks are 0 to {sum(counts) - 1}"
            )
    if counts == [len(node.ranks) for node in plan.nodes]:
        return plan.nodes
    pairs = [(node.host, count) for node, count in zip(nodes, counts) if count]
    return layout([(host._replace(gpus=host.gpus[:count]), count) for host, count in pairs])


_NUMBERS = (RunOptions.nnodes, RunOptions.nproc_per_node, RunOptions.np)


def _at_most(typed: str, value: object, most: int, why: str) -> int:
    """Return a number of ranks or nodes of a run. Raises `InvalidRequest` if it is larger than the session."""
    text = str(value)
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise InvalidRequest(f"{typed}: {why}", f"use at most {most}, or leave it out for all")
    return int(text)


def _ranks_in_words(nodes: tuple[Node, ...]) -> str:
    counts = sorted({len(node.ranks) for node in nodes})
    each = " or ".join(map(str, counts))
    return f"{each} {'rank' if counts == [1] else 'ranks'} on each node"


NOT_HELD: Mapping[Option[object], str] = {
    RunOptions.on: "it starts a session of its own",
    RunOptions.launcher: "each run on the session has its own",
    RunOptions.module: "it starts no ranks",
    RunOptions.no_python: "it starts no ranks",
    RunOptions.stdin: "it starts no ranks",
    RunOptions.wrap: "each run on the session has its own",
    RunOptions.sync: "each run on the session has its own",
    RunOptions.snapshot: "each run on the session has its own",
    RunOptions.max_restarts: "each run on the session has its own",
    RunOptions.timeout: "use --idle",
    RunOptions.spare_nodes: "a session that loses a host ends",
    RunOptions.json: "it prints no events",
    **dict.fromkeys((RunOptions.main, RunOptions.all_roles), "runs with roles need hosts of their own"),
    **dict.fromkeys(
        (RunOptions.sweep, RunOptions.array, RunOptions.max_parallel, RunOptions.chain, RunOptions.resubmit),
        "each run on the session has its own",
    ),
    RunOptions.after: "it starts at once",
}
"""Options of `run` that a session does not have, and why."""


def options_to_hold(options: HoldOptions) -> HoldOptions:
    """Return the options with which a session is started. Raises `InvalidRequest` for those that it does not have."""
    for option, why in NOT_HELD.items():
        if options.typed(option):
            raise InvalidRequest(f"a session does not accept {option.long_name}: {why}", "leave it out")
    not_in_jobs = _not_in_jobs(options)
    _refuse_container(options)
    options = options.without(*NOT_HELD, *not_in_jobs)
    given = [(options.source(option), {option.key: options.value(option)}) for option in options.all_given()]
    return HoldOptions(("argv", {RunOptions.detach.key: True}), *given)


def _refuse_container(options: HoldOptions) -> None:
    """Raise `InvalidRequest` for a container: it has only the directories that were mounted when it was started.

    Scripts of later runs are in other directories, so a session in a container would not find them.
    """
    name, image = runtimes.chosen(options)
    if not runtimes.runtime(name).has_image:
        return
    option = options.option(name) or options.option(runtimes.CONTAINER)
    typed = option is not None and options.typed(option)
    raise InvalidRequest(
        f"a session in a container is not supported yet, got the image {image}",
        f"leave out {option.long_name if option else '--container'}, or use `muster run --container` without a session"
        if typed
        else "muster.toml or the environment names it; hold without it: `muster hold --container ''`",
    )


def _not_in_jobs(options: HoldOptions) -> list[Option[Any]]:
    """Return the options of a scheduler that the job of a session does not have. Raises `InvalidRequest`."""
    if options.scheduled and get_scheduler(options.scheduled).shell is None:
        raise InvalidRequest(
            f"a session on {title(options.scheduled)} is not supported",
            "hold the hosts of a running job over ssh, if the cluster allows it: `muster hold --hosts …`",
        )
    found = [option for option in (options.option(key) for key in NOT_IN_JOBS) if option is not None]
    for option in found:
        if options.scheduled and options.typed(option):
            raise InvalidRequest(
                f"a session does not accept {option.long_name}: {NOT_IN_JOBS[option.key]}", "leave it out"
            )
    return found


NOT_IN_JOBS = {
    **dict.fromkeys(("requeue", "expedite"), "it ends with its job"),
    **dict.fromkeys(("output", "error"), "it starts no ranks"),
}
"""Options of a scheduler, by key, that the job of a session does not have, and why."""
