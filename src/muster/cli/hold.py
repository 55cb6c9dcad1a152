"""`muster hold`, `shell`, `release`: sessions, on whose hosts scripts run again at once."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Mapping, Sequence

from muster import api
from muster.cli.commands import COMMANDS
from muster.cli.common import parse_command
from muster.cli.context import tell_progress
from muster.cli.help import print_command
from muster.cli.run_line import context_of, read_line
from muster.client.session import await_ready, find_held, find_session, name_of_session, release_session, run_shell
from muster.config.command_options import HOLD, HoldOptions, ReleaseOptions, ShellOptions
from muster.config.options import RunOptions
from muster.config.sessions import options_to_hold
from muster.core.hostlist import fold_hostlist
from muster.core.model import BUNDLED, Plan
from muster.core.plurals import plural
from muster.errors import InvalidRequest, MusterError
from muster.linux.identity import user_name
from muster.rundir.run import Run
from muster.ui.formatting import seconds
from muster.ui.view import Silent, View


def hold(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Start a session, and return once runs can be started on it."""
    parsed, options = read_line(words, env, HoldOptions, "hold")
    if options.help:
        print_command("hold", COMMANDS["hold"], HOLD, env)
        return 0
    if parsed.operands:
        raise InvalidRequest(
            f"`muster hold` starts no program, got: {parsed.operands[0]}",
            f"hold first, then `muster run --on NAME {' '.join(parsed.operands)}`",
        )
    returns = bool(options.scheduled) and options.typed(RunOptions.detach)
    options = options_to_hold(options)
    parsed = parsed._replace(operands=[f"{BUNDLED}hold.py"])

    def viewer(plan: Plan, run_id: str, operand: str) -> View:
        return Silent(False)

    context = context_of(["hold", *words], parsed, options, env, began, "hold", viewer, "pass\n")
    context = context.with_job(context.asked.job._replace(hold=options.idle))
    run = api.begin(context).run
    name = name_of_session(run)
    if returns:  # its job may be pending for long
        tell_progress(f"run on it: muster run --on {name} train.py; end it: muster release {name}", options.quiet)
        print(run.id)
        return 0
    told: set[str] = set()

    def tell(text: str) -> None:
        told.add(text)
        tell_progress(text, options.quiet)

    try:
        await_ready(run, began, tell)
    except KeyboardInterrupt:
        print(f"the session continues to start; end it: muster release {name}", file=sys.stderr)
        raise
    _tell(run, options, began, told)
    print(run.id)
    return 0


def _tell(run: Run, options: HoldOptions, began: float, told: Collection[str]) -> None:
    plan, name = run.plan, name_of_session(run)
    assert plan is not None
    for event in run.events() if run.job.get("shared") else ():
        if event.get("event") == "say" and event["text"] not in told:
            tell_progress(str(event["text"]), options.quiet)
    where = f"{plural(plan.world_size, 'rank')} on {fold_hostlist(plan.hosts)}"
    tell_progress(f"holding {where}, ready in {seconds(time.monotonic() - began)}", options.quiet)
    gpus = "; its GPUs are yours until then" if any(told.get("gpus") for told in _facts_of(run)) else ""
    end = f"it ends after {seconds(options.idle)} without a run (--idle){gpus}" if options.idle else "it has no limit"
    tell_progress(f"run on it: muster run --on {name} train.py", options.quiet)
    tell_progress(f"end it: muster release {name}; {end}", options.quiet)


def _facts_of(run: Run) -> Sequence[Mapping[str, object]]:
    from muster.rundir.session import read_session

    record = read_session(run)
    return record.facts if record is not None else ()


def shell(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Open a shell on a host of a session; return its exit code."""
    asked = parse_command(ShellOptions, "shell", words, env)
    if asked is None:
        return 0
    options, rest, store = asked
    if len(rest) != 1:
        raise InvalidRequest("`muster shell` requires one session", "list them with `muster ps --running`")
    _, record, plan = find_session(store, rest[0], lambda text: tell_progress(text, False))
    hosts = {node.host.name: node.host for node in plan.nodes}
    name = options.node if options.node is not None else plan.nodes[0].host.name
    if name not in hosts:
        raise InvalidRequest(f"{rest[0]} has no host {name}", f"its hosts are {fold_hostlist(hosts)}")
    gpus = next((len(told.get("gpus") or ()) for told in record.facts if told.get("name") == name), None)
    return run_shell(plan.job, hosts[name], gpus, env)


def release(words: list[str], env: Mapping[str, str], began: float) -> int:
    """End sessions, and wait until they have ended."""
    asked = parse_command(ReleaseOptions, "release", words, env)
    if asked is None:
        return 0
    options, rest, store = asked
    if not rest:
        raise InvalidRequest("`muster release` requires a session", "list them with `muster ps --running`")
    by = f"{env.get('USER') or f'user {user_name(os.getuid())}'} (pid {os.getpid()})"
    status = 0
    for run in {run.id: run for run in (find_held(store, name) for name in rest)}.values():
        try:
            outcome = release_session(run, by, options.force)
        except MusterError as error:  # the others hold hosts, too
            print(f"error: {error}", file=sys.stderr)
            status = max(status, error.exit_code)
        else:
            print(f"{run.id}: released after {seconds(outcome.duration)}")
    return status
