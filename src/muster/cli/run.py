"""`muster run` and `muster plan`."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from muster import api
from muster.cli.commands import COMMANDS
from muster.cli.common import store_of
from muster.cli.context import tell_progress, viewer_of
from muster.cli.help import print_command
from muster.config import toml_files
from muster.config.nodes import local_nodes, remote_nodes, spares_of
from muster.config.options import RUN, RunOptions
from muster.config.parse import (
    ParsedArgs,
    cut,
    from_environment,
    hint_of_scheduler,
    names_in,
    names_of,
)
from muster.config.record import Source
from muster.core.env_forwarding import redact, shown
from muster.core.model import as_json
from muster.core.rank_env import of_each_rank
from muster.core.results import RunResult
from muster.core.suggestions import nearest
from muster.errors import InvalidRequest
from muster.launchers import make_plan
from muster.linux import processes
from muster.protocol import paths
from muster.rundir.run import Run
from muster.runner.context import ALL, RunContext, Viewer, resolve
from muster.schedulers import SCHEDULERS, choosing, options_of, typed

if TYPE_CHECKING:
    from muster.runner.handle import RunHandle

Record = TypeVar("Record", bound=RunOptions)


def read_line(
    words: Sequence[str], env: Mapping[str, str], record: type[Record], command: str
) -> tuple[ParsedArgs, Record]:
    """Read the command line of `run`, `plan` or `check` (`command`), the environment and muster.toml.

    With a scheduler (typed, or from an environment variable or muster.toml) the short options of its own program apply:
    -t may be --time, not torchrun's --tee. For `--help`, only the command line is read. Raises `InvalidRequest`.
    """
    usual, configured = names_of(record.table), None
    for name in SCHEDULERS:
        own = names_in(name, record.table)
        line = cut(words, own)
        try:
            parsed = line.read(own, command)
        except InvalidRequest:
            if f" {typed(name)} " in f" {' '.join(words)} ":
                raise
            continue
        if parsed.options.get("help"):
            return parsed, record(("argv", parsed.options))
        if configured is None:
            configured = _configured(parsed.options, env)
        options = _options(record, parsed.options, configured, env)
        if options.scheduled == name:
            _refuse_what_its_program_reads_otherwise(words, parsed, options)
            return parsed, options
    # all tables split options from operands at the same word, unless an option exists in only one of them
    parsed = line.read(usual, command, lambda name: hint_of_scheduler(name, record.table))
    if parsed.options.get("help"):
        return parsed, record(("argv", parsed.options))
    if configured is None:
        configured = _configured(parsed.options, env)
    return parsed, _options(record, parsed.options, configured, env)


def _configured(typed: Mapping[str, Any], env: Mapping[str, str]) -> list[tuple[Source, dict[str, Any]]]:
    """Return the values of environment variables and muster.toml, for the selected profile."""
    variables = from_environment(RUN, env)
    files = toml_files.tables(typed.get("profile", variables.get("profile")), env)
    return [("environment", variables), *(("muster.toml", table) for table in files)]


def _options(
    record: type[Record],
    typed: Mapping[str, Any],
    configured: Sequence[tuple[Source, Mapping[str, Any]]],
    env: Mapping[str, str],
) -> Record:
    """Return the options merged from all sources."""
    layers: list[tuple[Source, Mapping[str, Any]]] = [("argv", typed), *configured]
    return _settled(record(*((source, _with_homes(values, env)) for source, values in layers)))


def _refuse_what_its_program_reads_otherwise(words: Sequence[str], parsed: ParsedArgs, options: RunOptions) -> None:
    """Reject `-d afterok:12 train.py`: unlike muster's, sbatch's -d takes a value, which looks like a script."""
    of = options_of(options.scheduled)
    before = words[len(words) - len(parsed.operands) - 1] if len(words) > len(parsed.operands) > 0 else ""
    other = of.unlike.get(before)
    meant = other is not None and re.match(other.values, parsed.operands[0]) and not parsed.after_dashes
    if other is not None and meant and not os.path.exists(parsed.operands[0]):
        own = names_of(RUN)[before].long_name
        raise InvalidRequest(
            f"script not found: {parsed.operands[0]} (after {before}, which is {own} of muster)",
            f"for {before} of {of.program}, write `{other.name}={parsed.operands[0]}`",
        )
    note = of.note(words, options)
    if note:
        print(f"warning: {note}", file=sys.stderr)


def _settled(options: Record) -> Record:
    """Drop configured values that contradict what was typed.

    For example a scheduler if muster.toml names hosts, or `-n 2` if it sets `nproc_per_node = 4`. Of two typed options
    none is dropped; that is an error.
    """
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
    """Return the options with `~` expanded in paths: no shell has expanded environment variables and muster.toml."""
    found = dict(given)
    for option in RUN:
        value = found.get(option.key)
        if option.is_path and value is not None:
            items = [paths.expanded(item, env) for item in (value if option.many else [value])]
            found[option.key] = items if option.many else items[0]
    return found


_OWN_VARIABLES = ("FOLDER", "HOME", "HOOK", "PYTHON", "RANK", "RUN_ID", "SCRATCH", "STATUS", "TRACE", "TRUST")
"""Variables that begin with MUSTER_ and are no options."""


def misspelled(env: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return each variable that begins with MUSTER_ and resembles an option's, with the name that is meant."""
    known = {*_OWN_VARIABLES, *(option.key.upper() for option in RUN)}
    words = [name.removeprefix("MUSTER_") for name in env if name.startswith("MUSTER_")]
    found = [(word, nearest(word, known)) for word in words if word not in known]
    return [(f"MUSTER_{word}", f"MUSTER_{near}") for word, near in found if near is not None]


def context_of(
    argv: list[str],
    parsed: ParsedArgs,
    options: RunOptions,
    env: Mapping[str, str],
    began: float,
    verb: str,
    viewer: Viewer | None = None,
    brought: str = "",
) -> RunContext:
    """Return the context of a run to be shown on this terminal. Raises `InvalidRequest`.

    `viewer` creates the view, if not as the options say; `brought` is the source of one of muster's own scripts.
    """
    from muster.ui.terminal import prefixes

    prefixes({0: ("host", 0, 0)}, options.prefix, colour=False)  # raises for one that cannot be filled in
    for name, near in misspelled(env):
        print(f"warning: unknown environment variable: {name}; did you mean {near}?", file=sys.stderr)
    store = store_of(options, env)
    shown, foreground = viewer or viewer_of(options, env), ALL._replace(terminal=viewer is None)

    def progress(text: str) -> None:
        tell_progress(text, options.quiet)

    return resolve(argv, parsed, options, env, began, store, shown, progress, tell_progress, foreground, verb, brought)


def plan(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Show what `run` would start; start and write nothing, contact no host."""
    from muster.ui.plan_text import plan_in_words

    parsed, options = read_line(words, env, RunOptions, "plan")
    if options.help:
        print_command("plan", COMMANDS["plan"], RUN, env)
        return 0
    context = context_of(["plan", *words], parsed, options, env, began, "plan")
    asked, run_id, store = context.asked, context.run_id, context.store
    if options.scheduled and not options.json:
        from muster.runner.scheduled import request, script_of

        run_dir = store.path(run_id)
        print(script_of(request(asked, options, run_dir), asked, options, run_dir), end="")
        return 0
    if options.scheduled:
        from muster.runner.scheduled import nodes_to_come

        nodes = nodes_to_come(asked, options, store.path(run_id))
    elif asked.hosts:
        nodes = remote_nodes(asked, None, options.ranks or ())
    else:
        nodes = local_nodes(asked, options, env)
    planned = make_plan(asked.job, nodes, run_id)._replace(spares=spares_of(asked))
    if options.json:
        import json

        # ranks inherit the environment of their node, which is known for this machine
        inherited = (
            {"env": dict(sorted(env.items()))} if asked.job.transport == "local" and not asked.job.setup else None
        )
        whole = {**planned._asdict(), "ranks": of_each_rank(planned), "inherited": inherited}
        del whole["environments"]
        print(json.dumps({"run": run_id, **redact(as_json(whole), shown)}, indent=1))
    else:
        print(plan_in_words(planned, run_id, str(store.root / "runs"), options.show_env))
    return 0


def run(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Start the ranks, show the run, and return its exit code."""
    parsed, options = read_line(words, env, RunOptions, "run")
    if options.help:
        print_command("run", COMMANDS["run"], RUN, env)
        return 0
    return start(context_of(["run", *words], parsed, options, env, began, "run"))


def start(context: RunContext) -> int:
    """Start a run and show it until it ends, unless it is detached; return its exit code."""
    handle = api.begin(context)
    if context.options.detach:
        print(handle.id)
        return 0
    if handle.detached:  # it waits in a scheduler's queue
        from muster.cli.queued import follow

        return follow(handle.run, context.viewer, context.options.quiet)
    outcome = handle.drive()
    if outcome is None:
        return _unknown(handle)
    if not context.asked.hosts and not context.options.scheduled:
        _write_elastic_error_file(handle.run, outcome, context.env)
    return outcome.code


def _unknown(handle: RunHandle) -> int:
    """Return the exit code if the connection to the controller was lost or left."""
    from muster.cli.attach import told

    return 125 if handle.client is None else told(handle.run, None, handle.client)


def _write_elastic_error_file(run: Run, outcome: RunResult, env: Mapping[str, str]) -> None:
    """Write to TORCHELASTIC_ERROR_FILE, if set, what torchrun would: the error of the first failing rank."""
    target = env.get("TORCHELASTIC_ERROR_FILE")
    if not target or outcome.root_cause is None:
        return
    import json

    source = run.log(outcome.attempt, outcome.root_cause.rank, "error.json")
    try:
        if source.exists():  # the script uses torch's @record
            text = source.read_text()
        else:
            failure = outcome.root_cause.failure
            words = failure.summary if failure else f"exit status {outcome.code}"
            stack = "\n".join(failure.frames) if failure else ""
            info = {"py_callstack": stack, "timestamp": str(int(time.time()))}
            text = json.dumps({"message": {"message": words, "extraInfo": info}})
        os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
        Path(target).write_text(text)
    except OSError as error:
        print(f"warning: cannot write TORCHELASTIC_ERROR_FILE {target}: {processes.reason(error)}", file=sys.stderr)
