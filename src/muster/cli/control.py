"""`muster wait`, `kill`: commands for running runs."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence

from muster.cli.common import end_in_words, find_operand_run, living_in_words, parse_command, started_in_words
from muster.cli.confirm import agreed
from muster.client.client import Client, ask
from muster.client.follow import Follower, tell_silence
from muster.client.follow import wait as wait_for
from muster.client.local import is_anothers
from muster.client.reconcile import cancel, has_not_ended, may_still_run, reconcile, require_known, statuses
from muster.client.status import ANSWERS_WITHIN, RunStatus
from muster.config.command_options import KillOptions, WaitOptions
from muster.config.options import RunOptions
from muster.core.controller_config import RECORD
from muster.core.plurals import plural
from muster.core.results import RunState
from muster.errors import ControlError, InvalidRequest, MusterError, Unreachable
from muster.linux.identity import user_name
from muster.linux.processes import FEWER_PROCESSES
from muster.rundir.finding import all_runs
from muster.rundir.job_record import Scheduled
from muster.rundir.run import Run
from muster.rundir.store import Store
from muster.rundir.sweeps import folded, is_sweep
from muster.schedulers import title
from muster.ui.formatting import seconds, table
from muster.ui.reason_text import leftover_in_words, lost_in_words

_SILENT = 1.0
"""Seconds for which `kill` waits silently."""
_CANCELLED_WITHIN = 60.0
"""Seconds for a scheduler to cancel a job."""


def wait(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Wait for the end of a run; return its exit code, 124 after `--timeout`, 125 if the result is unknown."""
    asked = parse_command(WaitOptions, "wait", words, env)
    if asked is None:
        return 0
    options, rest, store = asked
    run = find_operand_run(store, rest, "wait", sweeps=True)
    if is_sweep(run):
        from muster.cli.sweeps import follow_sweep

        return follow_sweep(run, options.timeout)
    with Client(run) as client:
        waited = wait_for(Follower(run, client, tell_silence), options.timeout)
    found = waited.status
    if found.outcome is not None:
        print(f"{run.id}: {end_in_words(run, found.outcome)}")
        return found.outcome.code
    if waited.in_time:
        require_known(run, found)
    print(f"{run.id} is {_told(found)}", file=sys.stderr)
    if found.met_limit:
        print(f"hint: {FEWER_PROCESSES}", file=sys.stderr)
    return 125 if waited.in_time else 124


def _told(found: RunStatus) -> str:
    return f"{found.state}: {found.why}" if found.why else str(found.state)


def kill(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Stop runs, and wait until they have ended."""
    asked = parse_command(KillOptions, "kill", words, env)
    if asked is None:
        return 0
    options, rest, store = asked
    by = f"{env.get('USER') or f'user {user_name(os.getuid())}'} (pid {os.getpid()})"
    if options.all:
        if rest:
            raise InvalidRequest(f"--all cannot be combined with: {' '.join(rest)}", "name runs, or use --all alone")
        return _kill_all(store, options.yes, by)
    if not rest:
        raise InvalidRequest(
            "`muster kill` requires a run", "list runs with `muster ps`; `last` is the newest, `--all` selects all"
        )
    chosen = {run.id: run for run in (find_operand_run(store, [word], "kill", sweeps=True) for word in rest)}
    over = not any(map(has_not_ended, chosen.values()))
    status = _end_all(list(chosen.values()), by)
    if over and (living := living_in_words(store)):
        print(living)  # perhaps another run was meant
    return status


def _kill_all(store: Store, agreed_already: bool, by: str) -> int:
    """Stop all running runs of this user after confirmation; report hosts that do not answer."""
    own = folded([run for run in all_runs(store) if not is_anothers(run)])
    found = dict(zip((run.id for run in own), statuses(own, ANSWERS_WITHIN)))
    living = [run for run in own if found[run.id].state.lives]
    silent = [run for run in own if found[run.id].state is RunState.UNKNOWN]
    for run in silent:
        print(f"warning: {run.id}: unknown state: {found[run.id].why}", file=sys.stderr)
    if living and not agreed_already:
        rows = [
            (run.id, str(run.job.get("name", "")), str(found[run.id].state), started_in_words(run.job))
            for run in living
        ]
        print(table(rows))
        if not agreed(f"kill {plural(len(living), 'run')}", "use --yes, or name the runs"):
            print("killed 0 runs")
            return 1
    if not living:
        print("no active runs")
    return max(_end_all(living, by), Unreachable.exit_code if silent else 0)


def _end_all(chosen: Sequence[Run], by: str) -> int:
    """Stop these runs concurrently; return the worst exit code."""
    if len(chosen) == 1:
        return _end(chosen[0], by)
    statuses = dict.fromkeys((run.id for run in chosen), 1)

    def end(run: Run) -> None:
        try:
            statuses[run.id] = _end(run, by)
        except MusterError as error:
            print(f"error: {error}", file=sys.stderr)
            statuses[run.id] = error.exit_code

    # no pool: after Ctrl-C its threads would be joined
    ending = [threading.Thread(target=end, args=(run,), daemon=True) for run in chosen]
    for thread in ending:
        thread.start()
    for thread in ending:
        thread.join()
    return max(statuses.values(), default=0)


def _end(run: Run, by: str) -> int:
    """Stop one run and print the result; return 1 if processes are still alive. `by` names who stops it."""
    if is_sweep(run):
        from muster.cli.sweeps import kill_sweep

        return kill_sweep(run, lambda point: _end(point, by), by)
    with Client(run) as client:
        return _end_over(run, client, by)


def _end_over(run: Run, client: Client, by: str) -> int:
    """Stop one run like `_end`, over this connection."""
    found = reconcile(run, client=client)
    follower = Follower(run, client)
    scheduled = run.scheduled if run.scheduled is not None and not run.scheduled.allocated else None
    if found.state is RunState.PENDING:
        cancel(run)
        print(f"{run.id}: removed from the queue")
        return 0
    if found.state is RunState.RUNNING and scheduled and run.read(RECORD) is None:  # there is no controller yet
        found = _cancel(follower, scheduled)
        require_known(run, found)
        print(f"{run.id}: cancelled, {_told(found)}")
        return 0 if found.state is not RunState.RUNNING else 1
    require_known(run, found)
    if found.state is not RunState.RUNNING:
        print(f"{run.id} has already ended ({_told(found)})")
        return 0
    grace = float(run.job.get("job", {}).get("grace", RunOptions.grace.default))
    try:
        ask(run, "kill", client, by=by)
        plan = run.plan
        ranks = plural(plan.world_size, "rank") if plan is not None else "the ranks"
        found = _wait(follower, f"terminating {ranks}", grace, beyond=5.0)
    except (ControlError, Unreachable):
        if not scheduled:
            raise
    if found.state is RunState.RUNNING and scheduled:
        # the controller does not answer or does not exit: the scheduler can cancel the job
        found = _cancel(follower, scheduled)
    elif found.state is RunState.RUNNING and not run.job.get("served"):
        # muster itself does not react: it is stopped (Ctrl-Z), or hangs
        ask(run, "end")
        found = wait_for(follower, 10).status
    require_known(run, found)
    if found.state is RunState.RUNNING:
        print(f"{run.id} is still running; see {run.path}/node_*/agent.log", file=sys.stderr)
        return 1
    outcome = run.outcome
    alive: list[str] = []
    if outcome is not None:
        alive += [leftover_in_words(found) for found in outcome.leftovers if not found.killed]
        alive += map(lost_in_words, outcome.lost)
    print(f"{run.id}: {'terminated' if not alive else 'terminated, but ' + '; '.join(alive)}")
    return 1 if alive else 0


def _cancel(follower: Follower, scheduled: Scheduled) -> RunStatus:
    """Cancel a run's scheduler job, and wait until it has ended."""
    cancel(follower.run)
    return _wait(follower, f"cancelling {title(scheduled.name)} job {scheduled.job}", _CANCELLED_WITHIN)


def _wait(follower: Follower, done: str, most: float, beyond: float = 0.0) -> RunStatus:
    """Wait for the end of a run; after a second, print what was `done`, and how many seconds the end may take.

    `most`: those seconds. `beyond`: additional seconds to wait, since signals and the cleanup take time.
    """
    waited = wait_for(follower, _SILENT)
    if waited.in_time or not may_still_run(follower.run, waited.status.state):
        return waited.status
    if most > _SILENT:
        print(f"{follower.run.id}: {done}, waiting up to {seconds(most)}", file=sys.stderr, flush=True)
    return wait_for(follower, most + beyond).status
