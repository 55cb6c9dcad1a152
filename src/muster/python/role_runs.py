"""A run with several programs for a Python program: `muster.run(roles={"trainer": muster.Role(train, …), …})`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from muster.config.options import RUN, RunOptions
from muster.config.parse import ParsedArgs, from_table
from muster.config.roles import OF_ROLE, check_lines, in_job
from muster.core.suggestions import did_you_mean
from muster.errors import InvalidRequest
from muster.python.output import tell
from muster.python.pickling import has_checkpoint, packed
from muster.python.run import Run
from muster.python.splitting import OPTIONS, OWN, Split, as_text, name_of, split
from muster.python.starting import begin, program_of, refuse_in_a_rank, typed, viewer
from muster.rundir.store import store_at
from muster.runner.context import RunContext, resolve

_OF_POOL = ("hosts", "hostfile", "include", "exclude")
"""Options of roles that a run may have: its hosts are divided between the roles in order."""


class RoleCall(NamedTuple):
    """The program of a role, with its arguments and options."""

    program: Any
    found: Split


def call_of(program: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> RoleCall:
    """Tell the options of a role from the arguments of its function. Raises `InvalidRequest`."""
    found = split(program, arguments, keywords)
    wrong = [name for name in found.options if name not in OF_ROLE]
    wrong += ["show_output"] if found.show_output is not None else []
    if wrong:
        raise InvalidRequest(
            f"{wrong[0]}= holds for the whole run, not for one role",
            f"pass it to muster.run or muster.submit: muster.run(roles=…, {wrong[0]}=…)",
        )
    if "role" in found.options:
        raise InvalidRequest("role=: the name of a role is its key", 'muster.run(roles={"trainer": muster.Role(…)})')
    if callable(program) and has_checkpoint(program):
        raise InvalidRequest(
            f"{name_of(program)} has a method `checkpoint`, which no function of a role can have",
            "save with muster.on_preemption in the function",
        )
    return RoleCall(program, found)


def run(roles: Any, keywords: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Run several programs, and return the results by role; see `muster.run`."""
    started = submit(roles, {**keywords, "show_output": keywords.get("show_output") is not False})
    try:
        return started.results_by_role()
    except BaseException as error:
        started.end_with(error)
        raise


def submit(roles: Any, keywords: Mapping[str, Any]) -> Run[Any]:
    """Start several programs as one run; see `muster.submit`."""
    return begin(context_of(_calls_of(roles), keywords))


def _calls_of(roles: Any) -> dict[str, RoleCall]:
    """Return the program of each role. Raises `InvalidRequest`."""
    if not isinstance(roles, Mapping) or len(roles) < 2:
        raise InvalidRequest(
            "roles= takes a dictionary with two roles at least",
            'muster.run(roles={"trainer": muster.Role(train, nproc_per_node=2), "rollout": muster.Role(serve)})',
        )
    calls = {}
    for name, role in roles.items():
        call = getattr(role, "call", None)
        if not isinstance(name, str) or not isinstance(call, RoleCall):
            raise InvalidRequest(
                f"roles={{{name!r}: …}}: not a role: {type(role).__name__}", "write muster.Role(program, …)"
            )
        calls[name] = call
    return calls


def context_of(calls: Mapping[str, RoleCall], keywords: Mapping[str, Any]) -> RunContext:
    """Return the context of a run with these roles. Raises `InvalidRequest`."""
    began, env = time.monotonic(), dict(os.environ)
    common = _common(keywords)
    shared = {name: value for name, value in common.items() if name not in OF_ROLE}
    lines, sources, functions, argv = list[tuple[ParsedArgs, RunOptions]](), [], {}, ["run", *typed(common)]
    for index, (name, call) in enumerate(calls.items()):
        own = {"role": name, **call.found.options}
        given = {**(shared if index else common), **own}
        options = RunOptions(("argv", from_table(RUN, given, f"options of role {name}")))
        words, source = program_of(call.program, call.found, options)
        lines.append((ParsedArgs({}, words, False), options))
        sources.append(source)
        if source:
            functions[name] = packed(call.program, call.found.args, call.found.kwargs)
        argv += [*([":"] if index else []), *typed(own), *([f"{name_of(call.program)}()"] if source else words)]
    check_lines(lines)
    refuse_in_a_rank()
    options = _whole(lines, {**common, **next(iter(calls.values())).found.options})
    store, view = store_at(options.run_dir, env), viewer(options, bool(keywords.get("show_output")))
    context = resolve(
        *(argv, lines[0][0], options, env, began, store, view, tell, tell), roles=lines, brought_by_role=sources
    )
    return context._replace(function=_in_one(functions) if functions else b"")


def _common(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the whole run, in the types of muster.toml. Raises `InvalidRequest`."""
    wrong = [name for name in ("args", "kwargs") if keywords.get(name) is not None]
    if wrong:
        raise InvalidRequest(f"{wrong[0]}= is for one function", "pass arguments to muster.Role")
    given = {name: value for name, value in keywords.items() if name not in OWN and value is not None}
    for name in given:
        if name not in OPTIONS:
            raise InvalidRequest(
                f"unknown option: {name}", did_you_mean(name, OPTIONS) or "pass arguments of functions to muster.Role"
            )
        if name in OF_ROLE and name not in _OF_POOL:
            raise InvalidRequest(f"{name}= concerns one role", f"pass it to the role: muster.Role(program, {name}=…)")
    return as_text(given)


def _whole(lines: Sequence[tuple[ParsedArgs, RunOptions]], first: Mapping[str, Any]) -> RunOptions:
    """Return the options of the run: those of the first role, with nodes for all roles in a job of a scheduler."""
    options = lines[0][1]
    if not options.scheduled:
        return options
    given = {name: value for name, value in first.items() if name not in ("np", "nproc_per_node")}
    table = {**given, **in_job([own for _, own in lines])}
    return RunOptions(("argv", from_table(RUN, table, "options of the run")))


def _in_one(functions: Mapping[str, bytes]) -> bytes:
    """Return the file with the functions of several roles: where each one is, and then these; see `call.py`."""
    places, offset = {}, 0
    for name, data in functions.items():
        places[name] = offset
        offset += len(data)
    header = json.dumps({"roles": places}).encode()
    return b"".join((len(header).to_bytes(8, "big"), header, *functions.values()))
