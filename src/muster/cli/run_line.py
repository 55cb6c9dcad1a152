"""The command line of `muster run`: its options from all sources, and the run that it requests."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from muster.cli.common import store_of
from muster.cli.context import tell_progress, viewer_of
from muster.config import toml_files
from muster.config.options import RUN, RunOptions
from muster.config.parse import ParsedArgs, cut, from_environment, hint_for_unknown, hint_in_job, names_in, names_of
from muster.config.record import Source
from muster.config.roles import OF_ROLE, check_lines, check_part, check_program, in_job, split
from muster.config.toml_files import RoleTable
from muster.core.results import RoleRanks
from muster.core.suggestions import nearest
from muster.errors import InvalidRequest
from muster.protocol import paths
from muster.runner.context import ALL, RunContext, Viewer, resolve
from muster.schedulers import SCHEDULERS, choosing, options_of, typed

Record = TypeVar("Record", bound=RunOptions)


def read_line(
    words: Sequence[str], env: Mapping[str, str], record: type[Record], command: str
) -> tuple[ParsedArgs, Record]:
    """Read the command line of `run`, `plan` or `check` (`command`), the environment and muster.toml.

    With a scheduler (typed, or from an environment variable or muster.toml) the short options of its own program apply:
    -t may be --time, not torchrun's --tee. For `--help`, only the command line is read. Raises `InvalidRequest`.
    """
    if len(split(words)) > 1:
        raise InvalidRequest(
            f"`muster {command}` takes one program, got several roles", "`muster run` and `muster plan` take several"
        )
    parsed, options = _read_line(words, env, record, command)
    role = None if parsed.operands or parsed.options.get("help") else _role_table(parsed.options, env)
    return (parsed if role is None else parsed._replace(operands=list(role.command))), options


def _role_table(typed: Mapping[str, Any], env: Mapping[str, str]) -> RoleTable | None:
    """Return the table of muster.toml for the role that was typed; None without one."""
    return toml_files.roles(env).get(typed["role"]) if "role" in typed else None


def read_roles(
    words: Sequence[str], env: Mapping[str, str], command: str
) -> tuple[ParsedArgs, RunOptions, list[tuple[ParsedArgs, RunOptions]]]:
    """Read the command line of `run` or `plan`, which may have several roles.

    Return the options of the run with the program of the first role, and those of each role; none of the latter if the
    run has one program. Raises `InvalidRequest`.
    """
    first, *others = split(words)
    parsed, options = read_line(first, env, RunOptions, command)
    left = parsed.operands[parsed.operands.index(":") :] if ":" in parsed.operands else []
    if options.typed(RunOptions.role) and any(word.partition("=")[0] == "--role" for word in left):
        raise InvalidRequest(f"`: {left[1]}`: a role begins with its name", "write `--role NAME` directly after `:`")
    if not (others or options.typed(RunOptions.all_roles)) or options.help:
        if options.typed(RunOptions.main) and not options.help:
            raise InvalidRequest("--main requires several roles", "leave it out: a run with one program ends with it")
        if options.typed(RunOptions.role) and not options.help:
            check_program(parsed, options)
            if left and not parsed.after_dashes:
                note = f"`:` is an argument of {parsed.operands[0]}; another role begins with `: --role NAME`"
                print(f"warning: {note}", file=sys.stderr)
        return parsed, options, []
    lines, typed = [(parsed, options)], parsed.options
    if options.typed(RunOptions.all_roles):
        lines, others = [], [["--role", name] for name in _all_roles(parsed, others, env)]
    shared = {key: value for key, value in typed.items() if key not in OF_ROLE}
    for part in others:
        own, before = read_line(part, env, RunOptions, command)
        if lines:
            check_part(own, before)
        given = {**(shared if lines else typed), **own.options}
        lines.append((own, _options(RunOptions, given, _configured(given, env), env)))
    check_lines(lines)
    parsed, first_role = lines[0]
    if not first_role.scheduled:
        return parsed, first_role, lines
    of_one = {key: value for key, value in parsed.options.items() if key not in ("np", "nproc_per_node")}
    whole = {**shared, **of_one, **in_job([options for _, options in lines])}
    return parsed, _options(RunOptions, whole, _configured(whole, env), env), lines


def _all_roles(parsed: ParsedArgs, others: Sequence[Sequence[str]], env: Mapping[str, str]) -> list[str]:
    """Return the names of all roles of muster.toml. Raises `InvalidRequest`."""
    if parsed.operands or others:
        what = parsed.operands[0] if parsed.operands else ":"
        raise InvalidRequest(
            f"--all-roles cannot be combined with `{what}`: muster.toml has the programs",
            "leave it out, or name each role with `--role`",
        )
    of_one = [key for key in parsed.options if key in OF_ROLE and key not in ("hosts", "hostfile")]
    if of_one:
        raise InvalidRequest(
            f"--all-roles cannot be combined with --{of_one[0].replace('_', '-')}, which concerns one role",
            "set it in a table `[roles.NAME]` of muster.toml",
        )
    known = toml_files.roles(env)
    if not known:
        raise InvalidRequest("--all-roles: no roles in muster.toml", "define each in a table `[roles.NAME]`")
    lacking = next((name for name, table in known.items() if not table.command), None)
    if lacking is not None:
        raise InvalidRequest(f"{known[lacking].source} has no `command`", 'add one, e.g. `command = "train.py"`')
    return list(known)


def _read_line(
    words: Sequence[str], env: Mapping[str, str], record: type[Record], command: str
) -> tuple[ParsedArgs, Record]:
    usual, configured = names_of(record.table), None
    for name in SCHEDULERS:
        own = names_in(name, record.table)
        line = cut(words, own)
        try:
            parsed = line.read(own, command, partial(hint_in_job, scheduler=name, options=record.table))
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
    parsed = line.read(usual, command, lambda name: hint_for_unknown(name, record.table))
    if parsed.options.get("help"):
        return parsed, record(("argv", parsed.options))
    if configured is None:
        configured = _configured(parsed.options, env)
    return parsed, _options(record, parsed.options, configured, env)


def read_again(
    words: Sequence[str], typed: Mapping[str, Any], env: Mapping[str, str], cwd: str
) -> tuple[ParsedArgs, RunOptions]:
    """Read the command line of an earlier `muster run` in its directory, with other options that are `typed` now.

    How its terminal showed it is not taken over, nor that it was detached.
    """
    parsed, _ = read_line(words, env, RunOptions, "run")
    shown = (RunOptions.detach, RunOptions.quiet, RunOptions.json, RunOptions.after)
    before = {key: value for key, value in parsed.options.items() if key not in {option.key for option in shown}}
    merged = {"cwd": cwd, **before, **typed}
    return parsed, _options(RunOptions, merged, _configured(merged, env), env)


def _configured(typed: Mapping[str, Any], env: Mapping[str, str]) -> list[tuple[Source, dict[str, Any]]]:
    """Return the values of environment variables and muster.toml, for the selected profile."""
    variables = from_environment(RUN, env)
    files = toml_files.tables(typed.get("profile", variables.get("profile")), env)
    role = _role_table(typed, env)
    if role is not None:
        wrong = [key for key in role.options if key not in OF_ROLE]
        if wrong:
            raise InvalidRequest(
                f"{role.source}: {wrong[0]} holds for the whole run, not for one role", "put it into the table `[run]`"
            )
        files.insert(0, role.options)
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


_OWN_VARIABLES = (
    *("FOLDER", "HOME", "HOOK", "PYTHON", "RANK", "ROLES", "RUN_ID", "SCRATCH", "STATUS", "TRACE", "TRUST"),
    *("POINT", "POINTS", "POINT_VALUES", "PART", "PARTS"),
)
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
    run_id: str = "",
    roles: Sequence[tuple[ParsedArgs, RunOptions]] = (),
) -> RunContext:
    """Return the context of a run to be shown on this terminal. Raises `InvalidRequest`.

    `viewer` creates the view, if not as the options say; `brought` is the source of one of muster's own scripts.
    `run_id`: the id of an existing sweep, whose points are started again. `roles`: see `read_roles`.
    """
    if options.prefix is not None:
        from muster.ui.terminal import prefixes

        some = [RoleRanks(options.role, 0, 1)] if roles else []
        prefixes({0: ("host", 0, 0)}, options.prefix, False, "", some)  # raises for one that cannot be filled in
    for name, near in misspelled(env):
        print(f"warning: unknown environment variable: {name}; did you mean {near}?", file=sys.stderr)
    store = store_of(options, env)
    shown, foreground = viewer or viewer_of(options, env), ALL._replace(terminal=viewer is None)

    def progress(text: str) -> None:
        tell_progress(text, options.quiet)

    return resolve(
        *(argv, parsed, options, env, began, store, shown, progress, tell_progress, foreground, verb, brought),
        *(run_id, roles),
    )
