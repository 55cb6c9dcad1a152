"""`muster run` and `muster plan`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from muster import api
from muster.cli.commands import COMMANDS
from muster.cli.help import print_command
from muster.cli.run_line import context_of, read_roles
from muster.config.options import RUN, RunOptions
from muster.core.results import RunResult
from muster.linux import processes
from muster.rundir.run import Run
from muster.runner.context import RunContext

if TYPE_CHECKING:
    from muster.runner.handle import RunHandle


def plan(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Show what `run` would start; start and write nothing, contact no host."""
    parsed, options, roles = read_roles(words, env, "plan")
    if options.help:
        print_command("plan", COMMANDS["plan"], RUN, env)
        return 0
    if is_sweep_request(options):
        from muster.cli.sweep_run import plan_sweep

        return plan_sweep(words, parsed, options, env, began)
    from muster.cli.plan import print_plan

    context = context_of(["plan", *words], parsed, options, env, began, "plan", roles=roles)
    return print_plan(context)


def run(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Start the ranks, show the run, and return its exit code."""
    parsed, options, roles = read_roles(words, env, "run")
    if options.help:
        print_command("run", COMMANDS["run"], RUN, env)
        return 0
    if is_sweep_request(options):
        from muster.cli.sweep_run import run_sweep

        return run_sweep(words, parsed, options, env, began)
    context = context_of(["run", *words], parsed, options, env, began, "run", roles=roles)
    if options.after:
        from muster.runner.awaited import after_others

        context = after_others(context, detached=False)[0]
    return start(context)


def is_sweep_request(options: RunOptions) -> bool:
    """Return whether the options request more than one run."""
    several = (RunOptions.sweep, RunOptions.array, RunOptions.chain)
    waits = bool(options.after) and options.detach and not options.scheduled  # a chain of one part
    return waits or options.typed(RunOptions.max_parallel, RunOptions.resubmit) or options.given(*several)


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
            data = source.read_bytes()  # whatever it is
        else:
            failure = outcome.root_cause.failure
            words = failure.summary if failure else f"exit status {outcome.code}"
            stack = "\n".join(failure.frames) if failure else ""
            info = {"py_callstack": stack, "timestamp": str(int(time.time()))}
            data = json.dumps({"message": {"message": words, "extraInfo": info}}).encode()
        os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
        Path(target).write_bytes(data)
    except OSError as error:
        print(f"warning: cannot write TORCHELASTIC_ERROR_FILE {target}: {processes.reason(error)}", file=sys.stderr)
