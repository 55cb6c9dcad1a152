"""Code shared by the commands for existing runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from muster.cli.commands import COMMANDS
from muster.cli.help import print_command
from muster.config import toml_files
from muster.config.options import RunDirOptions
from muster.config.parse import from_environment, parse
from muster.config.record import Options
from muster.errors import InvalidRequest, MusterError
from muster.rundir.finding import find_run, list_runs
from muster.rundir.run import Run
from muster.rundir.store import Store, store_at
from muster.rundir.sweeps import is_sweep

if TYPE_CHECKING:
    from muster.core.results import RunResult


Record = TypeVar("Record", bound=RunDirOptions)


def parse_command(
    record: type[Record], name: str, words: list[str], env: Mapping[str, str]
) -> tuple[Record, list[str], Store] | None:
    """(options, operands, store of runs), or None after printing help.

    Raises `InvalidRequest` for operands of a command that takes none.
    """
    parsed = parse(words, record.table, interleaved=True, command=name)
    if parsed.options.get("help"):
        print_command(name, COMMANDS[name], record.table, env)
        return None
    if parsed.operands and not any(COMMANDS[name].operands):
        raise InvalidRequest(
            f"`muster {name}` takes no arguments, got: {' '.join(parsed.operands)}",
            _INSTEAD.get(name) or _instead_of_hosts(record, parsed.operands) or "leave them out",
        )
    options = located(record, parsed.options, env)
    return options, parsed.operands, store_of(options, env, alone=options.typed(RunDirOptions.run_dir))


def located(record: type[Record], typed: Mapping[str, Any], env: Mapping[str, str]) -> Record:
    """Return the options of a command that reads only `run_dir` from the environment and muster.toml."""
    variables = from_environment([record.run_dir], env)
    configured = toml_files.run_dir(env) if "run_dir" not in {**typed, **variables} else None
    files = {} if configured is None else {"run_dir": configured}
    return record(("argv", typed), ("environment", variables), ("muster.toml", files))


_INSTEAD: Mapping[str, str] = {
    "ps": "`muster show RUN` shows one run",
    "prune": "`muster rm RUN` deletes one run",
}
"""Hints to the commands that do the same for a single run."""


def _instead_of_hosts(record: type[Options], operands: Sequence[str]) -> str | None:
    """Return a hint for a command that takes hosts only as an option."""
    takes_hosts = any(option.key == "hosts" for option in record.table)
    return f"name hosts with `--hosts {','.join(operands)}`" if takes_hosts else None


def store_of(options: RunDirOptions, env: Mapping[str, str], alone: bool = False) -> Store:
    """Return the store where runs are kept and found; `alone`: only in the directory that was named."""
    return store_at(options.run_dir, env, alone)


def end_in_words(run: Run, outcome: RunResult) -> str:
    """Return how a run ended, for users."""
    from muster.ui.text import outcome_in_words

    notes = notes_in_words(run, outcome, ended=True)
    return outcome_in_words(outcome, run.operand, len(outcome.exits), run.hosts, notes)


def notes_in_words(run: Run, outcome: RunResult, ended: bool = False) -> list[str]:
    """Return what follows the result of a failed run: what changed since the last success, and where its report is.

    `ended`: the run has ended before, so that its report exists or will never.
    """
    from muster.report import REPORT, is_reported

    report = run.path / REPORT
    told = report.exists() if ended else is_reported(outcome)
    slow = _slow_in_words(run)
    return [*_changes_in_words(run, outcome), *slow, *([f"report: {report}"] if told else [])]


def _slow_in_words(run: Run) -> list[str]:
    """Return which ranks the others have waited for, if that is recorded."""
    from muster.rundir.pace import read_pace
    from muster.ui.pace_text import slow_in_words

    try:
        pace = read_pace(run)
        return [slow_in_words(pace.slow[0], pace, run.hosts)] if pace is not None and pace.slow else []
    except MusterError:
        return []


def _changes_in_words(run: Run, outcome: RunResult) -> list[str]:
    """Return what changed since the last successful run of the script; empty if that is unknown."""
    from muster.core.comparison import since
    from muster.core.results import RunState
    from muster.rundir.comparing import facts_for_comparison, last_success
    from muster.ui.diff_text import since_in_words

    if outcome.state is not RunState.FAILED:
        return []
    try:
        before = last_success(run)
        if before is None:
            return []
        facts = facts_for_comparison(before), facts_for_comparison(run)
    except (MusterError, OSError):  # the result matters more than this
        return []
    return since_in_words(*facts, since(*facts))


def find_operand_run(store: Store, rest: list[str], name: str, sweeps: bool = False) -> Run:
    """Return the one run that the operands name; the newest if there are none.

    `sweeps`: it may be a sweep. Raises `InvalidRequest`.
    """
    run = _operand_run(store, rest, name)
    if not sweeps and is_sweep(run):
        from muster.cli.sweeps import refuse_sweep

        refuse_sweep(run, name)
    return run


def _operand_run(store: Store, rest: list[str], name: str) -> Run:
    if len(rest) > 1:
        raise InvalidRequest(f"`muster {name}` takes one run, got {len(rest)}: {' '.join(rest)}", "name one")
    host, colon, which = (rest[0] if rest else "").rpartition(":")
    if colon:
        from muster.client.remote import import_run

        return import_run(store, host, which or "last")
    return named(store, rest[0] if rest else "last")


def named(store: Store, which: str) -> Run:
    """Return the run that an operand names; of several with the same name, the one that is running."""
    from muster.client.reconcile import lives

    return find_run(store, which, lives)


def started_in_words(job: Mapping[str, Any]) -> str:
    """Return when a run was started, such as `2026-11-27 11:32:45` in the local time zone, or `?`."""
    return _time_in("%Y-%m-%d %H:%M:%S", job)


def started_for_programs(job: Mapping[str, Any]) -> str:
    """Return when a run was started, as ISO 8601 with the local UTC offset, or `?`."""
    text = _time_in("%Y-%m-%dT%H:%M:%S%z", job)
    return text[:-2] + ":" + text[-2:] if text != "?" else text


def _time_in(form: str, job: Mapping[str, Any]) -> str:
    began = job.get("time")  # None in a damaged file
    try:
        return time.strftime(form, time.localtime(began)) if began is not None else "?"
    except (ValueError, OverflowError, OSError):
        return "?"


def living_in_words(store: Store) -> str:
    """Return the unfinished runs, for a user who named a finished one; empty if there are none."""
    import time

    from muster.client.reconcile import has_not_ended
    from muster.core.plurals import plural
    from muster.ui.formatting import seconds

    lines = []
    for run in list_runs(store):
        if not has_not_ended(run):
            continue
        name = f" ({run.job['name']})" if run.job.get("name") else ""
        lines.append(f"    {run.id}{name}, started {seconds(time.time() - run.job['time'])} ago")
    return "\n".join([f"{plural(len(lines), 'active run')}:", *lines]) if lines else ""
