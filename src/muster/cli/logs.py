"""`muster logs`: the output of a run's ranks, from their log files, in the order in which it was written."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from muster.cli.common import find_operand_run, parse_command
from muster.cli.run_log import RunLog, tell_unwritable
from muster.client.client import Client
from muster.client.reconcile import reconcile
from muster.config.command_options import LogsOptions
from muster.core.results import RunState
from muster.errors import InvalidRequest
from muster.rundir.run import Run
from muster.rundir.sweeps import is_sweep, runs_by_point, sweep_of
from muster.ui.output_writer import reader_gone, write_all


def logs(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Print the logs; with `-f`, follow them until the run ends."""
    asked = parse_command(LogsOptions, "logs", words, env)
    if asked is None:
        return 0
    options, rest, store = asked
    if options.fold:
        _refuse_with_fold(options)
    run = find_operand_run(store, rest, "logs", sweeps=True)
    if is_sweep(run) and options.follow:
        from muster.cli.sweep_watch import follow_points

        return follow_points(run, options, env)[0]
    if is_sweep(run):
        return _print_points(run, options, env)
    with Client(run) as client:
        return _print(run, client, options, env)


def _print_points(sweep: Run, options: LogsOptions, env: Mapping[str, str]) -> int:
    """Print the logs of each point of a sweep below its values."""
    code, runs = 0, runs_by_point(sweep)
    for point in sweep_of(sweep).points:
        if point.number not in runs or reader_gone(1):
            continue
        label = f": {point.label}" if point.label else ""
        write_all(1, f"==> {point.number}{label} <==\n".encode(errors="replace"))
        with Client(runs[point.number]) as client:
            code = max(code, _print(runs[point.number], client, options, env))
    return code


def _refuse_with_fold(options: LogsOptions) -> None:
    """Raise `InvalidRequest` for an option that has no meaning for folded lines."""
    for name, given in (
        ("--follow", options.follow),
        ("--timestamps", options.timestamps),
        ("--prefix", options.prefix is not None),
    ):
        if given:
            raise InvalidRequest(f"--fold cannot be combined with {name}", "leave out one of them")


def _print(run: Run, client: Client, options: LogsOptions, env: Mapping[str, str]) -> int:
    """Print the logs of a run, which is followed over this connection."""
    if not client.sync_files():
        print(f"warning: no answer from {run.job['served']['name']}: showing the logs copied so far", file=sys.stderr)
    if options.follow:
        _await_start(run, client)
    log = RunLog(run, client, options, env)
    try:
        while not reader_gone(1) and log.turn():
            log.pause()
        log.finish()
    except OSError as error:
        return tell_unwritable(error)
    return 0


def _await_start(run: Run, client: Client) -> None:
    """Wait until the number of ranks is known, which is after the job of the run has started."""
    while True:
        state = reconcile(run, client=client).state
        if not (state is RunState.PENDING or (state is RunState.RUNNING and not run.job.get("ranks"))):
            return
        time.sleep(0.2)
