"""A plan as text: everything that would be started. Equal commands are grouped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from muster.core.env_forwarding import REDACTED, is_secret
from muster.core.fold import by_value
from muster.core.hostlist import fold_hostlist
from muster.core.layout import fold, named
from muster.core.model import AUTHENTICATED, Command, Job, Late, Plan, Rank, Role, Template, Text, Variables
from muster.core.plurals import plural
from muster.runtimes import python_inside
from muster.ui.formatting import shell_word


def plan_in_words(
    plan: Plan, run_id: str, run_dir: str, show_env: bool = False, entered: str = "", shipped: Sequence[str] = ()
) -> str:
    """Return a plan as text: everything that would be started, with equal commands grouped. `entered` are the shell
    lines by which an agent enters a container; `shipped` tells which environments are sent where.

    The user's own environment variables are listed by name; `show_env` shows their values too, except secrets.
    """
    job = plan.job
    timeout = "none" if job.timeout is None else f"{job.timeout:g}s"
    restarts = f"up to {plural(job.max_restarts, 'restart')}" if job.max_restarts else "no restarts"
    launcher = "/".join(dict.fromkeys(role.job.launcher for role in plan.roles)) or job.launcher
    count = len({node.host.name for node in plan.nodes})  # each role has a node of its own on a host that it shares
    rows = [("launcher", f"{launcher}, {plural(plan.world_size, 'rank')} on {plural(count, 'node')}")]
    rows += [("python", text) for text in _pythons_in_words(plan)]
    rows += [("ship env", text) for text in shipped]
    rows += [("role", _role_in_words(plan, role)) for role in plan.roles]
    rows += [("cwd", job.cwd)] if not plan.roles else []
    rows += [("setup", line) for line in job.setup]
    rows += [("preload", ", ".join(job.preload))] if job.preload else []
    if job.last_imports is not None and job.last_imports.run:
        rows.append(("preload", f"the first imports of the script, as run {job.last_imports.run} made them"))
    rows += [("stdin", f"this terminal, for rank {job.stdin}")] if job.stdin is not None else []
    rows.append(("shutdown", f"grace {job.grace:g}s, timeout {timeout}, {restarts}"))
    rows += [("spares", ", ".join(host.name for host in plan.spares))] if plan.spares else []
    rows.append(("logs", f"{run_dir}/{run_id}/attempt_0/rank_00000.out, .err, …"))
    lines = [f"{name:<9} {text}" for name, text in rows]
    if entered:
        lines += ["", "each agent, and its ranks with it, starts in a container by", *_indented(entered)]
    for commands in by_value((command, (command.node, command.argv)) for command in plan.commands).values():
        lines += ["", *_commands_in_words(plan, commands, show_env)]
    for part in plan.parts:
        lines += _rank_command_in_words(plan, part, show_env) if part.rank_command is not None else []
    return "\n".join([*lines, "", *_late_in_words(plan)])


def _role_in_words(plan: Plan, role: Role) -> str:
    hosts = [plan.hosts[node] for node in role.own_nodes]
    main = "; the run ends when it has succeeded" if role.main else ""
    return (
        f"{role.name}: {named(role.own_ranks)} of the run on {fold_hostlist(hosts)}, rendezvous on {hosts[0]}, "
        f"launcher {role.job.launcher}, in {role.job.cwd}{main}"
    )


def _pythons_in_words(plan: Plan) -> list[str]:
    """Return the interpreter of the ranks, with the names of the roles if they have several; none without Python."""
    with_python = {command.node for command in plan.commands if command.python_index is not None}
    found = by_value(
        (part.name, f"{python_inside(part.job)} ({part.job.python_source})")
        for part in plan.parts
        if part.first_node in with_python or (plan.roles and part.rank_command and part.job.program.kind != "command")
    )
    if [len(names) for names in found.values()] == [len(plan.parts)]:
        return list(found)
    return [f"{', '.join(names)}: {text}" for text, names in found.items()]


def _indented(lines: str) -> list[str]:
    return [f"    {line}" for line in lines.splitlines()]


_OF_AN_ATTEMPT = {Late.MASTER_ADDR, Late.MASTER_PORT, Late.RESTART_COUNT, Late.ERROR_FILE}


def _late_in_words(plan: Plan) -> list[str]:
    """Return the environment variables of ranks whose values are known only later."""
    # they include the rendezvous address, even if the launcher passes it to the ranks
    of_attempt = dict.fromkeys(("MASTER_ADDR", "MASTER_PORT"))
    of_node: dict[str, None] = {}
    for of in plan.environments:
        for name, value in (
            (name, value) for part in (of.env, *of.ranks, of.env_defaults) for name, value in part.items()
        ):
            if not isinstance(value, str):
                (of_attempt if value in _OF_AN_ATTEMPT else of_node)[name] = None
    where = "the first node of each role" if plan.roles else "node 0"
    port = f"{where} {'finds' if plan.external_rendezvous else 'binds'} a free port"
    if plan.job.rendezvous == AUTHENTICATED:
        port += " of 127.0.0.1; agents of other nodes relay connections to it"
    lines = [f"set when an attempt starts: {', '.join(of_attempt)} ({port})"]
    return [*lines, f"set after connecting to the nodes: {', '.join(of_node)}"] if of_node else lines


def _commands_in_words(plan: Plan, commands: Sequence[Command], show_env: bool) -> list[str]:
    """Return the text of commands that differ only in their ranks."""
    first = commands[0]
    host = plan.nodes[first.node].host.name
    ranks = [rank for command in commands for rank in command.ranks]
    lines = [f"on {host}: {' '.join(map(shell_word, first.argv))}"]
    if first.launcher:
        lines.append("  one process, with")
        lines += _set(plan.job_of(first.node), first.env, first.env_defaults, show_env)
    else:
        how = "one process, forks" if first.fork_server else "one process for" + (" each of" if len(ranks) > 1 else "")
        of = plan.environments[first.node]
        lines.append(f"  {how} {named(rank.rank for rank in ranks)}, with")
        lines += [
            *_set(plan.job_of(first.node), of.env, of.env_defaults, show_env),
            *_ranks_in_words(plan, first.node, ranks),
        ]
    for file in first.files:
        lines += [f"  {_plain(file.path)}:", *(f"    | {line}" for line in _plain(file.text).splitlines())]
    return lines


def _rank_command_in_words(plan: Plan, part: Role, show_env: bool) -> list[str]:
    """Return what ranks run under an external launcher, where they are expected, and their environment."""
    assert part.rank_command is not None
    who = f"each rank of {part.name}" if plan.roles else "each rank"
    lines = ["", f"{who}, after $MUSTER_RANK registered: {' '.join(map(shell_word, part.rank_command.argv))}"]
    found = [(plan.nodes[node], plan.environments[node]) for node in part.own_nodes]
    env = _shared([of.env for _, of in found])
    defaults = _shared([of.env_defaults for _, of in found])
    lines += ["  with", *_set(part.job, env, defaults, show_env)]
    for node, of in found:
        lines.append(f"  {named(rank.rank for rank in node.ranks)} expected on {node.host.name}, with")
        lines += _set(part.job, _without(of.env, env), _without(of.env_defaults, defaults), show_env)
        lines += _ranks_in_words(plan, node.number, node.ranks)
    return lines


def _shared(each: Sequence[Variables]) -> Variables:
    """Return the variables that are equal in all of them."""
    return {name: value for name, value in each[0].items() if all(other.get(name) == value for other in each)}


def _without(variables: Variables, others: Variables) -> Variables:
    return {name: value for name, value in variables.items() if name not in others}


def _ranks_in_words(plan: Plan, node: int, ranks: Iterable[Rank]) -> list[str]:
    """Return a line for each of these ranks of a node, with its own variables, except late values."""
    lines = []
    for rank in ranks:
        own = plan.environments[node].ranks[rank.local_rank]
        names = " ".join(f"{name}={value}" for name, value in own.items() if isinstance(value, str))
        cpus = f"  cores {fold(rank.cpus)}" if rank.cpus else ""
        lines.append(f"    rank {rank.rank}: {names}{cpus}")
    return lines


def _set(job: Job, env: Variables, defaults: Variables, show_env: bool) -> list[str]:
    """Return a line for each variable with a known value, or a file name; the user's own are listed in one line."""
    theirs = sorted(name for name in job.env if name in env) if not show_env else []
    shown = [(name, value) for name, value in sorted(env.items()) if not isinstance(value, Late) and name not in theirs]
    lines = [f"    {name}={_value(name, value)}" for name, value in shown]
    lines += [f"    and {', '.join(theirs)}   (show values with --show-env)"] if theirs else []
    known = [(name, value) for name, value in sorted(defaults.items()) if isinstance(value, str)]
    return [*lines, *(f"    {name}={_value(name, value)}   (unless set)" for name, value in known)]


def _plain(text: Text) -> str:
    """Return a text without quotes: the contents of a file, or its path."""
    parts = text.parts if isinstance(text, Template) else (text,)
    return "".join(f"${part.key}" if isinstance(part, Late) else part for part in parts)


def _value(name: str, value: Text) -> str:
    """Return the value of a variable, unless its name marks it as a secret."""
    return REDACTED if isinstance(value, str) and is_secret(name, value) else shell_word(value)
