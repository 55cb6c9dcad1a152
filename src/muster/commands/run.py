"""`muster run` and `muster plan`."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from muster import homes, runs
from muster.agent import paths, system
from muster.commands import configuration
from muster.commands.common import store_of
from muster.commands.context import RunContext, Viewer, job_record, viewer_of
from muster.environ import hidden, shown
from muster.errors import Impossible
from muster.job import job_on_a_terminal, make_job, nodes_here, nodes_there
from muster.launchers import make_plan
from muster.model import Plan, as_json
from muster.options import RUN, RunOptions
from muster.parsing import Parsed, cut, from_environment, help_text, hint_of_scheduler, names_in, names_of
from muster.rank_env import of_each_rank
from muster.record import Source
from muster.results import Outcome
from muster.schedulers import SCHEDULERS, choosing, get_scheduler, options_of, title, typed, within_jobs

if TYPE_CHECKING:
    from muster.world.view import View

_USAGE = """{verb}

    muster {name} [OPTIONS] SCRIPT [ARGS…]
    muster {name} [OPTIONS] -m MODULE [ARGS…]
    muster {name} [OPTIONS] -- COMMAND [ARGS…]

A line that works with torchrun on one node works with `torchrun` replaced by `muster run`.
Each option is also a key of `[run]` in muster.toml, and a variable: --max-restarts is max_restarts there, and
MUSTER_MAX_RESTARTS."""


Record = TypeVar("Record", bound=RunOptions)


def read_line(
    words: Sequence[str], env: Mapping[str, str], record: type[Record], command: str
) -> tuple[Parsed, Record]:
    """Read the command line of `run`, `plan` or `check`, which `command` says, the environment and muster.toml.

    Together with a scheduler (typed, or from a variable or muster.toml) the short options of its own program hold: -t
    may be --time, and not torchrun's --tee. For `--help` nothing but the command line is read. Raises `Impossible`.
    """
    usual, configured = names_of(record.table), None
    for name in SCHEDULERS:
        own = names_in(name, record.table)
        line = cut(words, own)
        try:
            parsed = line.read(own, command)
        except Impossible:
            if f" {typed(name)} " in f" {' '.join(words)} ":
                raise
            continue
        if parsed.given.get("help"):
            return parsed, record(("argv", parsed.given))
        if configured is None:
            configured = _configured(parsed.given, env)
        options = _options(record, parsed.given, configured, env)
        if options.scheduled == name:
            _refuse_what_its_program_reads_otherwise(words, parsed, options)
            return parsed, options
    # all cut options from the rest at the same word, unless a name is that of one of them alone
    parsed = line.read(usual, command, lambda name: hint_of_scheduler(name, record.table))
    if parsed.given.get("help"):
        return parsed, record(("argv", parsed.given))
    if configured is None:
        configured = _configured(parsed.given, env)
    return parsed, _options(record, parsed.given, configured, env)


def _configured(typed: Mapping[str, Any], env: Mapping[str, str]) -> list[tuple[Source, dict[str, Any]]]:
    """What variables and then muster.toml say, of the profile that is typed or a variable's."""
    variables = from_environment(RUN, env)
    files = configuration.tables(typed.get("profile", variables.get("profile")), env)
    return [("environment", variables), *(("muster.toml", table) for table in files)]


def _options(
    record: type[Record],
    typed: Mapping[str, Any],
    configured: Sequence[tuple[Source, Mapping[str, Any]]],
    env: Mapping[str, str],
) -> Record:
    """What follows from all sources together."""
    layers: list[tuple[Source, Mapping[str, Any]]] = [("argv", typed), *configured]
    return _settled(record(*((source, _with_homes(values, env)) for source, values in layers)))


def _refuse_what_its_program_reads_otherwise(words: Sequence[str], parsed: Parsed, options: RunOptions) -> None:
    """`-d afterok:12 train.py`: sbatch's -d takes a value, muster's does not, so that value looks like a script."""
    of = options_of(options.scheduled)
    before = words[len(words) - len(parsed.rest) - 1] if len(words) > len(parsed.rest) > 0 else ""
    other = of.unlike.get(before)
    meant = other is not None and re.match(other.values, parsed.rest[0]) and not parsed.dashes
    if other is not None and meant and not os.path.exists(parsed.rest[0]):
        own = names_of(RUN)[before].long_name
        raise Impossible(
            f"script not found: {parsed.rest[0]} (after {before}, which is muster's {own})",
            f"for {of.program}'s {before} write `{other.name}={parsed.rest[0]}`",
        )
    note = of.note(words, options)
    if note:
        print(f"muster: {note}", file=sys.stderr)


def _settled(options: Record) -> Record:
    """Leave out what was configured and contradicts what was typed: a scheduler where muster.toml names hosts, `-n 2`
    where it says `nproc_per_node = 4`. Of two that were typed neither is left out; that is an error."""
    hosts, scheduled = (RunOptions.hosts, RunOptions.hostfile), choosing(options)
    tty, no_tty = (RunOptions.tty,), (RunOptions.no_tty,)
    for wins, loses in ((scheduled, hosts), (hosts, scheduled), (tty, no_tty), (no_tty, tty)):
        if options.typed(*wins) and not options.typed(*loses):
            options = options.without(*loses)
    if options.typed(*scheduled):
        options = options.without(*(option for option in scheduled if not options.typed(option)))
    total, each = RunOptions.np, RunOptions.nproc_per_node
    if options.typed(total) and not options.typed(each) and not options.given(*hosts, *scheduled):
        options = options.without(each)
    return options


def _with_homes(given: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    """The same with `~` expanded in all that is a path: no shell has read variables and muster.toml."""
    found = dict(given)
    for option in RUN:
        value = found.get(option.key)
        if option.is_path and value is not None:
            items = [paths.expanded(item, env) for item in (value if option.many else [value])]
            found[option.key] = items if option.many else items[0]
    return found


def _context(
    argv: list[str],
    parsed: Parsed,
    options: RunOptions,
    env: Mapping[str, str],
    began: float,
    verb: str,
    viewer: Viewer | None = None,
    brought: str = "",
) -> RunContext:
    """What the options ask for, the id of the run, and where it is kept."""
    asked = make_job(parsed, options, env, verb, brought)
    store = store_of(options, env)
    now = time.time()
    run_id = runs.free_id(store, asked.job.program.title, now, time.strftime("%Y%m%d-%H%M%S", time.gmtime(now)))
    context = RunContext(argv, options, asked, env, began, run_id, store, viewer or viewer_of(options, env))
    if options.snapshot:
        from muster.world import code

        copy, job = store.path(run_id) / "code", asked.job
        found = code.tree(job.cwd, job.program.path, str(store.root / "runs"))
        code.guard(found, context.code_limit, "--snapshot")
        asked = asked._replace(job=code.redirect(job, found.root, str(copy)), copied=(found, copy))
    return context._replace(asked=asked)


def plan(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Show what `run` would start. Starts nothing, writes nothing, asks nobody."""
    from muster.report import plan_in_words

    parsed, options = read_line(words, env, RunOptions, "plan")
    if options.help:
        return _help("plan", "show what `muster run` would start, and start nothing")
    context = _context(["plan", *words], parsed, options, env, began, "plan")
    asked, run_id, store = context.asked, context.run_id, context.store
    if options.scheduled and not options.json:
        from muster.commands.submit import request, script_of

        run_dir = store.path(run_id)
        print(script_of(request(asked, options, run_dir), asked, options, run_dir), end="")
        return 0
    if options.scheduled:
        from muster.commands.submit import nodes_to_come

        nodes = nodes_to_come(asked, options, store.path(run_id))
    elif asked.hosts:
        nodes = nodes_there(asked, None, options.ranks or ())
    else:
        nodes = nodes_here(asked, options, env)
    planned = make_plan(asked.job, nodes, run_id)
    if options.json:
        import json

        # ranks have what their node has; on this machine that is known
        inherited = {"env": dict(sorted(env.items()))} if asked.job.place == "local" and not asked.job.setup else None
        whole = {**planned._asdict(), "ranks": of_each_rank(planned), "inherited": inherited}
        del whole["environments"]
        print(json.dumps({"run": run_id, **hidden(as_json(whole), shown)}, indent=1))
    else:
        print(plan_in_words(planned, run_id, str(store.root / "runs"), options.show_env))
    return 0


def run(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Start the ranks, show what happens, and give the exit status of the run."""
    parsed, options = read_line(words, env, RunOptions, "run")
    if options.help:
        return _help("run", "start the ranks of a script, here or on other machines, and see them to their end")
    return start(["run", *words], parsed, options, env, began)


def _help(name: str, verb: str) -> int:
    print(_USAGE.format(verb=verb, name=name))
    print(help_text(RUN))
    return 0


def start(
    argv: list[str],
    parsed: Parsed,
    options: RunOptions,
    env: Mapping[str, str],
    began: float,
    verb: str = "run",
    viewer: Viewer | None = None,
    brought: str = "",
) -> int:
    """Start what these options ask for, and see it to its end; gives the exit status of the run.

    `viewer` makes what shows it, where that is not what the options say; `brought` is the text of a script of ours.
    """
    context = _context(argv, parsed, options, env, began, verb, viewer, brought)
    asked, store = context.asked, context.store
    temporary = homes.why_temporary(env)
    if temporary and store.root == store.homes[0]:
        context.progress(temporary)
    _warn_of_namesakes(store, asked.job.name)
    if options.scheduled:
        from muster.commands.submit import submit

        return submit(context)
    if asked.hosts or options.detach:
        from muster.commands.there import run_there

        return run_there(context)
    return _run_here(context, on_a_terminal=viewer is None)


def _run_here(context: RunContext, on_a_terminal: bool) -> int:
    """Start a run of which this process is the supervisor."""
    options, asked, env, run_id = context.options, context.asked, context.env, context.run_id
    nodes = nodes_here(asked, options, env)
    job = asked.job
    if on_a_terminal:
        job = job_on_a_terminal(job, sum(len(node.ranks) for node in nodes), options, env)
    planned = make_plan(job, nodes, run_id)
    view = context.viewer(planned, run_id, run_id)
    _tell_of_more_nodes(view, env, context.store)
    kept = keep(context, planned, run_id)
    view.operand = kept.operand
    try:
        context.make_copy()
        outcome = _attached(context, planned, kept, view)
    except Impossible:
        runs.remove(context.store, kept)
        raise
    _honour_error_file(kept, outcome.attempt, outcome.first.rank if outcome.first else None, env)
    return outcome.code


def _attached(context: RunContext, planned: Plan, kept: runs.Run, view: View) -> Outcome:
    """See a run on this machine to its end. Raises `Impossible` where it does not begin."""
    from muster.agent.eventloop import EventLoop
    from muster.world.link import end_links, signals_of, start_agents

    asked, env = context.asked, context.env
    with EventLoop() as loop, signals_of(loop, asked.job) as signals:
        agents = start_agents(asked.job, planned.nodes, env, planned.reader is not None)
        # meanwhile the agents come to life
        from muster.agent import machine
        from muster.checkup import at_no_cost
        from muster.world.attached import Attached

        for finding in at_no_cost({planned.hosts[0]: machine.at_no_cost(env)}, asked.job.env):
            if not context.options.quiet:
                view.say(finding)

        try:
            attached = Attached(loop, signals, planned, kept, agents, view, context.began)
            attached.start_writing()
        except OSError as error:
            end_links(agents.links, _TO_LEAVE)
            hint = system.FEWER_PROCESSES if system.met_limit(error) else f"look at {kept.path}"
            raise Impossible(f"the run could not be started: {system.reason(error)}", hint) from None
        return attached.go()


def _tell_of_more_nodes(view: View, env: Mapping[str, str], store: runs.Store) -> None:
    """Say that the ranks run on one of the nodes that a scheduler has given, if it still has."""
    for name in within_jobs(env):
        found = get_scheduler(name).allocation(env)
        if found is None or len(found.hosts) < 2:
            continue
        from muster.world.queue import client

        try:
            client(name).allocation(env, store.root, _SAYS_WITHIN)
        except Impossible as error:
            view.say(error.sentence)
        else:
            view.say(
                f"job {found.job} of {title(name)} has {len(found.hosts)} nodes, and these ranks run on this one: "
                f"`{typed(name)}` runs them on all"
            )


_SAYS_WITHIN = 2.0
"""Seconds in which a scheduler has to answer before ranks start that do not need it."""
_TO_LEAVE = 0.5
"""Seconds in which an agent has to end that was not told anything yet."""


def _warn_of_namesakes(store: runs.Store, name: str) -> None:
    """Say that a run of the same name lives: `muster kill NAME` would fit both."""
    if not name:
        return
    from muster.client.reconcile import has_not_ended

    for other in runs.namesakes(store, name):
        if has_not_ended(other):
            print(f"muster: warning: {other.id} has the same name, {name}, and has not ended", file=sys.stderr)


def keep(context: RunContext, plan: Plan, run_id: str, **more: Any) -> runs.Run:
    """Make the run directory, with what was asked for and the plan in it."""
    kept = context.new_directory()
    kept.write("job.json", job_record(plan.job, plan.world_size, run_id, context.argv, **more))
    kept.write("plan.json", hidden(as_json(plan)))
    return kept


def _honour_error_file(kept: runs.Run, attempt: int, rank: Any, env: Mapping[str, str]) -> None:
    """Where TORCHELASTIC_ERROR_FILE is set, leave there what torchrun would: the error of the first failing rank."""
    target = env.get("TORCHELASTIC_ERROR_FILE")
    if not target or rank is None:
        return
    import json

    source = kept.log(attempt, rank, "error.json")
    outcome = kept.outcome
    try:
        if source.exists():  # the script has torch's @record
            text = source.read_text()
        else:
            assert outcome is not None and outcome.first is not None
            failure = outcome.first.failure
            words = failure.summary if failure else f"exit status {outcome.code}"
            stack = "\n".join(failure.frames) if failure else ""
            info = {"py_callstack": stack, "timestamp": str(int(time.time()))}
            text = json.dumps({"message": {"message": words, "extraInfo": info}})
        os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
        Path(target).write_text(text)
    except OSError as error:
        print(f"muster: cannot write TORCHELASTIC_ERROR_FILE {target}: {system.reason(error)}", file=sys.stderr)
