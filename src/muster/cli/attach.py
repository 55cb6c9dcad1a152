"""`muster attach`."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from muster.cli.common import end_in_words, find_operand_run, parse_command
from muster.cli.context import viewer_of
from muster.client import remote
from muster.client.attach import AttachedClient
from muster.client.client import sync_files
from muster.client.reconcile import reconcile, require_known
from muster.config.command_options import AttachOptions, LogsOptions
from muster.controller.connections import captured_signals
from muster.controller.unsent_output import show_rest
from muster.core.results import RunResult
from muster.errors import InvalidRequest
from muster.linux.eventloop import EventLoop
from muster.rundir.run import Run
from muster.rundir.sweeps import is_sweep

_TAIL = 4096
"""Bytes of each log that `attach` starts with."""
_LINES = 20
"""Lines of each point of a sweep that it starts with."""


def attach(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Watch a detached run; several terminals may do so at once."""
    asked = parse_command(AttachOptions, "attach", words, env)
    if asked is None:
        return 0
    options, rest, store = asked
    run = find_operand_run(store, rest, "attach", sweeps=True)
    if is_sweep(run):
        from muster.cli.sweep_watch import attach_sweep

        return attach_sweep(run, _as_logs(options), env)
    viewer = viewer_of(options, env)
    if run.outcome is not None and (ended := reconcile(run).outcome) is not None:
        print(f"{run.id}: {end_in_words(run, ended)}")
        return ended.code
    if not run.job.get("served"):
        raise InvalidRequest(
            f"cannot attach to {run.id}: it was started without -d, and belongs to the terminal that started it",
            f"follow its output: muster logs -f {run.operand}",
        )
    if (scheduled := run.scheduled) is not None and not scheduled.allocated:
        from muster.cli.queued import follow

        return follow(run, viewer, attached=True)
    with EventLoop() as loop, captured_signals(loop) as signals:
        watch = AttachedClient(
            loop,
            signals,
            run.job["served"]["name"],
            run.operand,
            lambda: remote.connect(run),
            lambda plan, run_id: viewer(plan, run_id, run.operand),
            owner=False,
            patience=600.0,
            tail=None if options.all else _TAIL,
            files=lambda: _up_to_date(run),
        )
        outcome = watch.go()
    return told(run, outcome, watch)


def _as_logs(options: AttachOptions) -> LogsOptions:
    """Return the options of `muster logs` that show a sweep as `attach` does. Raises `InvalidRequest`."""
    if options.json:
        raise InvalidRequest("--json cannot be combined with a sweep", "attach to one of its points")
    own = {"rank": tuple(options.ranks or ()), "prefix": options.prefix, "tail": None if options.all else _LINES}
    given = {name: value for name, value in own.items() if value is not None}
    return LogsOptions(("argv", {**given, "follow": True}))


def _up_to_date(run: Run) -> Run | None:
    """Return the run with all its files updated here; None if its host is unreachable."""
    return run if sync_files(run) else None


def told(run: Run, outcome: RunResult | None, watch: AttachedClient) -> int:
    """Return the exit code, and print a message if the result is not known here."""
    if outcome is not None:
        return outcome.code
    if watch.left:
        hint = f"reattach: muster attach {run.operand}; stop: muster kill {run.operand}"
        print(f"\nmuster: detached, {run.id} keeps running; {hint}", file=sys.stderr)
        return 0
    sync_files(run)
    if run.outcome is not None:
        if watch.view is not None:
            show_rest(run, watch.view, watch.offsets, watch.tail)
            watch.view.finish(run.outcome)
            return run.outcome.code
        print(f"muster: {end_in_words(run, run.outcome)}", file=sys.stderr)
        return run.outcome.code
    found = reconcile(run)
    require_known(run, found)
    print(f"muster: {run.id} is {found.state}; details: muster show {run.operand}", file=sys.stderr)
    return 125
