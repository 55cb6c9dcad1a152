"""`muster hold` and `release`: sessions, on whose hosts scripts run again at once."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence

from muster import api
from muster.cli.commands import COMMANDS
from muster.cli.common import parse_command
from muster.cli.context import tell_progress
from muster.cli.help import print_command
from muster.cli.run_line import context_of, read_line
from muster.client.client import Client
from muster.client.follow import Follower
from muster.client.follow import wait as wait_for
from muster.client.reconcile import reconcile
from muster.client.session import SessionClient, find_session, name_of_session
from muster.config.command_options import HOLD, HoldOptions, ReleaseOptions
from muster.config.options import RunOptions
from muster.config.record import Option
from muster.core.hostlist import fold_hostlist
from muster.core.model import BUNDLED, Plan
from muster.core.plurals import plural
from muster.errors import ControlError, InvalidRequest
from muster.linux.eventloop import EventLoop
from muster.linux.identity import user_name
from muster.rundir.run import Run
from muster.schedulers import title
from muster.ui.formatting import seconds
from muster.ui.reason_text import reason_with_hint
from muster.ui.view import Silent, View

_REFUSED: Mapping[Option[object], str] = {
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
}
"""Options of `run` that a session does not have, and why."""

_WITHIN = 180.0
"""Seconds for the interpreters of a session to import torch and the rest."""

_LOOKS = 0.1


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
    for option, why in _REFUSED.items():
        if options.typed(option):
            raise InvalidRequest(f"`muster hold` does not accept {option.long_name}: {why}", "leave it out")
    if options.scheduled:
        raise InvalidRequest(
            f"`muster hold` does not support {title(options.scheduled)} yet",
            "hold the hosts of a running job over ssh: `muster hold --hosts …`",
        )
    options = options.without(*_REFUSED)
    given = [(options.source(option), {option.key: options.value(option)}) for option in options.all_given()]
    options = HoldOptions(("argv", {RunOptions.detach.key: True}), *given)
    parsed = parsed._replace(operands=[f"{BUNDLED}hold.py"])

    def viewer(plan: Plan, run_id: str, operand: str) -> View:
        return Silent(False)

    context = context_of(["hold", *words], parsed, options, env, began, "hold", viewer, "pass\n")
    context = context.with_job(context.asked.job._replace(hold=options.idle))
    run = api.begin(context).run
    try:
        _await_ready(run, began)
    except KeyboardInterrupt:
        print(f"the session continues to start; end it: muster kill {name_of_session(run)}", file=sys.stderr)
        raise
    _tell(run, options, began)
    print(run.id)
    return 0


def _await_ready(run: Run, began: float) -> None:
    """Wait until all nodes of a session are ready for runs. Raises `ControlError`."""
    deadline = began + _WITHIN
    with Client(run) as client:
        while time.monotonic() < deadline:
            answer = client.ask("state")
            if (answer.get("session") or {}).get("ready"):
                return
            if answer.get("gone"):
                break
            time.sleep(_LOOKS)
        found = reconcile(run, client=client)
    if found.outcome is not None:
        raise ControlError(reason_with_hint(found.outcome.stopped) or "the session has ended", None)
    raise ControlError(f"the session was not ready within {_WITHIN:g}s", f"end it: muster kill {name_of_session(run)}")


def _tell(run: Run, options: HoldOptions, began: float) -> None:
    plan, name = run.plan, name_of_session(run)
    assert plan is not None
    for event in run.events() if run.job.get("shared") else ():
        if event.get("event") == "say":
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


def release(words: list[str], env: Mapping[str, str], began: float) -> int:
    """End sessions, and wait until they have ended."""
    asked = parse_command(ReleaseOptions, "release", words, env)
    if asked is None:
        return 0
    options, rest, store = asked
    if not rest:
        raise InvalidRequest("`muster release` requires a session", "list them with `muster ps --running`")
    by = f"{env.get('USER') or f'user {user_name(os.getuid())}'} (pid {os.getpid()})"
    for name in rest:
        run, _, plan = find_session(store, name)
        with EventLoop() as loop:
            client = SessionClient(loop, run)
            try:
                client.release(by, options.force)
            finally:
                client.close()
        with Client(run) as connection:
            status = wait_for(Follower(run, connection), plan.job.grace + 10).status
        if status.outcome is None:
            raise ControlError(f"{name} has not ended yet", f"see `muster ps`; or `muster kill {name}`")
        print(f"{run.id}: released after {seconds(status.outcome.duration)}")
    return 0
