"""`muster ps`, `show`, `rm`, `prune`: commands for the run directories."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.cli.common import (
    find_operand_run,
    named,
    notes_in_words,
    parse_command,
    started_for_programs,
    started_in_words,
)
from muster.cli.confirm import agreed
from muster.client.reconcile import last_answer, reconcile, statuses
from muster.client.status import ANSWERS_WITHIN, RunStatus
from muster.config.command_options import PruneOptions, PsOptions, RmOptions, ShowOptions
from muster.core.plurals import plural
from muster.core.printable import line as safe
from muster.core.progress import Progress, least
from muster.core.results import RunResult, RunState, StopKind
from muster.errors import InvalidRequest
from muster.rundir.finding import all_runs, look_for_newest, look_for_runs, unreadable_error
from muster.rundir.progress import progress_at_end
from muster.rundir.run import Run, Unreadable
from muster.rundir.session import has_begun
from muster.rundir.store import Store
from muster.rundir.sweeps import folded, is_sweep, runs_by_point
from muster.ui.command_text import command_of_role, how_it_was_started, program_in_words
from muster.ui.formatting import fitted, seconds, size_in_words, table

if TYPE_CHECKING:
    from muster.client import usage
    from muster.core.accounting import RunUse
    from muster.core.job_facts import JobFacts

_NEWEST = 20
"""How many runs `ps` lists by default."""
_WITHIN = 8.0
"""Seconds for machines and schedulers to answer `ps`."""


def ps(words: list[str], env: Mapping[str, str], began: float) -> int:
    """List runs, newest first."""
    asked = parse_command(PsOptions, "ps", words, env)
    if asked is None:
        return 0
    options, _, store = asked
    selects = options.given(PsOptions.name, PsOptions.since, PsOptions.stats, PsOptions.running, PsOptions.failed)
    newest_alone = not (options.all or selects)
    looked, older = look_for_newest(store, _NEWEST) if newest_alone else (look_for_runs(store), 0)
    unknown = looked.unknown(store)
    if unknown and not looked.runs:
        raise unreadable_error(unknown)
    found = looked.runs[::-1] if newest_alone else folded(looked.runs)[::-1]
    if options.name is not None:
        found = [run for run in found if _name(run) == options.name]
    if options.since is not None:
        began = time.time() - options.since
        found = [run for run in found if _started(run) >= began]
    if options.stats:
        return _stats(found, options.json)
    filtered = options.running or options.failed
    if options.running and not options.failed:
        found = [run for run in found if not run.is_over]
    shown = found if options.all or filtered else found[:_NEWEST]
    records = _records(shown)
    if filtered:
        fits = [_fits(record, options) for record in records]
        shown = found = [run for run, fit in zip(shown, fits) if fit]
        records = [record for record, fit in zip(records, fits) if fit]
    for path, why in {**looked.refused, **looked.unreadable}.items():
        print(f"warning: ignoring {path}: {why}", file=sys.stderr)
    if options.all and looked.unrecorded:
        _tell_unfinished(looked.unrecorded)
    if options.json:
        print(json.dumps(records, indent=1))
        return 0
    if not records:
        print(_none(options, bool(looked.runs), str(store.root)))
        return 0
    jobs = any(item["job_id"] for item in records)
    steps = any(item["step"] is not None for item in records)  # a column only where a run reports steps
    head = ("STATE", "STEP", "EXIT") if steps else ("STATE", "EXIT")
    rows = [("RUN", "NAME", *(["JOB"] * jobs), "RANKS", *head, "STARTED", "DURATION", "LAUNCHER", "COMMAND")]
    for run, item in zip(shown, records):
        code = "" if item["code"] is None else str(item["code"])
        took = seconds(item["seconds"]) if item["seconds"] is not None else ""
        how = (item["launcher"], item["command"])
        when = started_in_words(item)
        number = [item["job_id"] or ""] if jobs else []
        of_sweep = "points" in item
        ranks = plural(item["ranks"], "part" if "chain" in item else "point") if of_sweep else str(item["ranks"])
        shown_state = item["why"] if of_sweep else _state_in_words(run, item)
        far = Progress(item["step"], item["steps"]).text if item["step"] is not None else ""
        state = (shown_state, far, code) if steps else (shown_state, code)
        rows.append((item["id"], item["name"], *number, ranks, *state, when, took, *how))
    # a run id starts with the start time in UTC
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(table(rows) if width is None else fitted(rows, width, ("STARTED", "DURATION", "LAUNCHER", "EXIT", "RANKS")))
    for run, item in zip(shown, records):
        if item["state"] is RunState.UNKNOWN:
            print(f"{run.id}: no answer: {item['why']}{_last_known(run)}")
        if item["state"] is RunState.UNREADABLE:
            print(f"warning: {item['why']}", file=sys.stderr)
    for line in _waiting(records):
        print(line)
    older += len(found) - len(shown)
    if older:
        print(f"… and {older} older; list all with `muster ps -a{store.option}`")
    return 0


def _none(options: PsOptions, others: bool, root: str) -> str:
    """Return that no run is listed; `others`: there are runs, which the options exclude."""
    states = " or ".join(["running"] * options.running + ["failed"] * options.failed) if others else ""
    named = f" named {safe(options.name)}" if others and options.name is not None else ""
    recent = f" started in the last {seconds(options.since)}" if others and options.since is not None else ""
    return f"no {states + ' ' if states else ''}runs{named}{recent} in {root}"


def _state_in_words(run: Run, item: Mapping[str, Any]) -> str:
    """Return the state of a run for the table: of a session, that it was released, which is a success for programs."""
    ended = _outcome(run) if item["state"] is RunState.SUCCEEDED and not item["program"] else None
    return str(StopKind.RELEASED if ended is not None and ended.is_released else item["state"])


def _tell_unfinished(unrecorded: Iterable[Path]) -> None:
    """Warn of directories that commands which were killed have left."""
    from muster.rundir.unfinished import unfinished

    if killed := unfinished(unrecorded):
        what = plural(len(killed), "directory", "directories")
        print(
            f"warning: {what} of runs that were killed before they were recorded; run `muster clean`", file=sys.stderr
        )


def _waiting(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return why pending runs wait: a line for each reason, with the run that is expected to start first."""
    reasons: dict[str, list[tuple[str, str]]] = {}
    for item in records:
        if item["state"] is RunState.PENDING and item["why"] and "points" not in item:
            why, _, when = str(item["why"]).partition("; ")
            reasons.setdefault(why, []).append((when or "~", str(item["id"])))
    lines = []
    for why, several in reasons.items():
        when, first = min(several)
        told = f"; {when}" if when != "~" else ""
        more = "" if len(several) == 1 else f" and {plural(len(several) - 1, 'more run')}"
        lines.append(f"{first}{more} pending: {why}{told}")
    return lines


def _stats(found: Sequence[Run], json_wanted: bool) -> int:
    """Print how these runs ended, and what they used."""
    from muster.ui.accounting_text import stats_in_words

    runs = [one for run in found for one in (runs_by_point(run).values() if is_sweep(run) else [run])]
    states = [str(status.state) for status in statuses(runs, _WITHIN)]
    uses = [use for run in runs if (use := _use(run, _outcome(run))) is not None]
    if json_wanted:
        counts = {state: states.count(state) for state in dict.fromkeys(states)}
        total = {"seconds": sum(use.seconds for use in uses), "core_hours": sum(use.core_hours for use in uses)}
        print(json.dumps({"runs": counts, **total, "gpu_hours": sum(use.gpu_hours for use in uses)}, indent=1))
    else:
        print(stats_in_words(states, uses) if runs else "no runs")
    return 0


def _started(run: Run) -> float:
    """Return when a run was started, as Unix time; now if its files are damaged, so that it is listed."""
    try:
        return float(run.job.get("time", time.time()))
    except Unreadable:
        return time.time()


def _outcome(run: Run) -> RunResult | None:
    try:
        return run.outcome
    except Unreadable:
        return None


def _records(shown: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the listing of these runs, all of which are asked at the same time; a sweep is one of them."""
    points = {run.id: list(runs_by_point(run).values()) for run in shown if is_sweep(run)}
    asked = [one for run in shown for one in points.get(run.id, [run])]
    known = dict(zip((run.id for run in asked), statuses(asked, _WITHIN, progress=True)))
    return [_of_sweep(run, known) if run.id in points else _record(run, known[run.id]) for run in shown]


def _of_sweep(run: Run, known: Mapping[str, RunStatus]) -> dict[str, Any]:
    """Return the listing of a sweep."""
    from muster.cli.sweeps import listing

    try:
        found = listing(run, known)
        return {**_readable(run, RunStatus(found["state"], found["why"])), **found, "ranks": len(found["points"])}
    except Unreadable as error:
        return _unreadable(run, error)


def _name(run: Run) -> str:
    """Return the name of a run; empty if it has none, or its files are damaged."""
    try:
        return str(run.job.get("name", ""))
    except Unreadable:
        return ""


def _fits(record: Mapping[str, Any], options: PsOptions) -> bool:
    """Return whether a run matches `--running` and `--failed`."""
    lives, failed = record["state"].lives, record["code"] not in (None, 0)
    return bool((options.running and lives) or (options.failed and failed and not lives))


def _last_known(run: Run) -> str:
    """Return how long ago an unresponsive run was known to run."""
    age = last_answer(run)
    return "" if age is None else f"; last seen running {seconds(age)} ago"


def _record(run: Run, status: RunStatus) -> dict[str, Any]:
    """Return the listing of a run; a damaged one is listed as such."""
    try:
        return _readable(run, status)
    except Unreadable as error:
        return _unreadable(run, error)


def _unreadable(run: Run, error: Unreadable) -> dict[str, Any]:
    unknown = {"name": "", "ranks": "?", "code": None, "started": "?", "time": None, "seconds": None}
    of_job: dict[str, Any] = {"launcher": "", "command": "", "program": [], "argv": [], "cwd": "", "host": ""}
    of_job.update(scheduler=None, job_id=None, step=None, steps=None)
    return {"id": run.id, "state": RunState.UNREADABLE, "why": error.sentence, **unknown, **of_job}


def _readable(run: Run, status: RunStatus) -> dict[str, Any]:
    job, outcome = run.job, run.outcome
    asked = job.get("job", {})
    program = asked.get("program")
    far = progress_at_end(outcome) if outcome else status.progress
    took = outcome.duration if outcome else (time.time() - job["time"] if status.state is RunState.RUNNING else None)
    session = asked.get("hold") is not None
    return {
        "id": run.id,
        "name": job.get("name", ""),
        "ranks": job.get("ranks", "?"),
        "state": RunState.HELD if status.state is RunState.RUNNING and _is_held(run) else status.state,
        "why": status.why,
        "code": outcome.code if outcome else None,
        "step": far.step if far else None,
        "steps": far.total if far else None,
        "started": started_for_programs(job),
        "time": job.get("time"),
        "seconds": took,
        "launcher": asked.get("launcher", "") if not session else "",
        "command": how_it_was_started(job) if session else _command(job, program),
        "program": program["argv"] if program and not session else [],
        "argv": job.get("argv", []),
        "cwd": job.get("cwd", ""),
        "host": job.get("host", ""),
        "scheduler": job.get("scheduler", {}).get("name"),
        "job_id": job.get("scheduler", {}).get("job"),
    }


def _command(job: Mapping[str, Any], program: Mapping[str, Any] | None) -> str:
    """Return the command of the ranks; those of all roles, with their names."""
    if roles := job.get("roles"):
        return " : ".join(f"{role.get('name')}: {command_of_role(role)}" for role in roles)
    return program_in_words(program["kind"], program["argv"]) if program else ""


def show(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Show the details of a run."""
    asked = parse_command(ShowOptions, "show", words, env)
    if asked is None:
        return 0
    options, rest, store = asked
    run = find_operand_run(store, rest, "show", sweeps=not options.slow)
    if is_sweep(run):
        from muster.cli.sweeps import show_sweep

        return show_sweep(run, options.json, options.metric)
    if options.metric is not None:
        raise InvalidRequest(f"--metric is for sweeps, and {run.id} is a single run", "leave it out")
    from muster.client import usage  # `ps` does not need these
    from muster.client.accounting import used
    from muster.client.client import Client
    from muster.client.queue import job_facts
    from muster.core.model import as_json
    from muster.notification import told_in_words
    from muster.ui.accounting_text import advice_in_words, use_in_words
    from muster.ui.summary import facts_of
    from muster.ui.text import outcome_as_json, show_in_words

    with Client(run) as client:
        status = reconcile(run, client=client)
        if options.slow:
            from muster.cli.slow import show_slow

            return show_slow(run, status.state, client, options.json)
        held = _is_held(run) and status.state is RunState.RUNNING
        session = (client.ask("state").get("session") or {}) if held else None
        now = usage.of(run, client) if status.state is RunState.RUNNING and not held else None
    if now is not None:
        status = status._replace(progress=least(rank.progress for rank in now.ranks))
    outcome, events = run.outcome, run.events()
    facts = job_facts(run, status.state)
    if options.json:
        record = {**_record(run, status), "job": run.job.get("job"), "python": facts_of(events), "events": events}
        record.update(now=as_json(now) if now else None, outcome=outcome_as_json(outcome) if outcome else None)
        use = used(run, _use(run, outcome)) if outcome is not None else None
        record.update(used={**as_json(use), "advice": advice_in_words(use)} if use is not None else None)
        record.update(session=session)
        record.update(scheduler_job=facts._asdict() if facts is not None else None)
        print(json.dumps(record, indent=1))
        return 0
    why = status.why or (facts.why if facts is not None else "")
    state = StopKind.RELEASED if outcome is not None and outcome.is_released else status.state
    told = f"{state}: {why}" if why else str(state)
    if session is not None:
        told, events = _held_in_words(session), []  # its start is not that of ranks
    uses = _now_in_words(now, run.hosts) if now else ""
    job = {**run.job, "started": started_in_words(run.job)}
    notes = notes_in_words(run, outcome, ended=True) if outcome is not None else []
    where = _where_in_words(run, status.state, facts)
    print(show_in_words(run.id, job, told, outcome, events, run.hosts, run.operand, uses, notes, where))
    print(f"run dir  {run.path}")
    if outcome is not None and (use := used(run, _use(run, outcome))):
        print("\n".join(use_in_words(use)))
    if told := told_in_words(run):
        print(told)
    return 0


def _is_held(run: Run) -> bool:
    """Return whether this is a session whose hosts are held already; its job may still be pending."""
    return run.job.get("job", {}).get("hold") is not None and has_begun(run)


def _held_in_words(session: Mapping[str, Any]) -> str:
    """Return what a session does, as its controller told; nothing is known if that does not answer."""
    if session.get("run"):
        since = time.strftime("%H:%M:%S", time.localtime(float(session["since"])))
        return f"{RunState.HELD}: {session['run']} runs on it since {since}"
    if not session.get("ready") or session.get("idle") is None:
        return str(RunState.HELD)
    limit = f", ends after {seconds(session['limit'])} without a run (--idle)" if session.get("limit") else ""
    return f"{RunState.HELD}: idle for {seconds(session['idle'])}{limit}"


def _use(run: Run, outcome: RunResult | None) -> RunUse | None:
    """Return what muster measured of a run that has ended; None if that is unknown."""
    from muster.rundir.accounting import use_of

    try:
        return use_of(run, outcome) if outcome is not None else None
    except Unreadable:
        return None


def _where_in_words(run: Run, state: RunState, facts: JobFacts | None) -> list[str]:
    """Return the lines about the job of a run, and about its hosts while it runs."""
    from muster.schedulers import title
    from muster.ui.job_text import job_in_words, ranks_in_words

    lines = job_in_words(facts, time.time()) if facts is not None else []
    if facts is None and (scheduled := run.scheduled) is not None:
        lines.append(safe(f"job      {title(scheduled.name)} job {scheduled.job}"))
    plan = run.plan if state is RunState.RUNNING else None
    return [*lines, *(ranks_in_words(plan.nodes) if plan is not None else ())]


def _now_in_words(now: usage.Now, hosts: Sequence[str]) -> str:
    """Return a table of the ranks' resource usage, and which hosts do not answer."""
    rows: list[Sequence[str]] = [("RANK", "HOST", "PID", "RSS", "PEAK RSS", "CPU", "CHILDREN")]
    names = dict(enumerate(hosts))
    reports = any(rank.progress is not None for rank in now.ranks)
    if reports:
        rows[0] = (*rows[0], "STEP")
    for rank in now.ranks:
        children = f"{rank.children}, {size_in_words(rank.children_memory)}" if rank.children else ""
        peak = size_in_words(rank.peak) if rank.peak else ""
        used = (size_in_words(rank.memory), peak, f"{rank.cpu:.0f}%", children)
        step = "" if rank.progress is None else rank.progress.text
        own = (str(rank.rank), names.get(rank.node, f"node {rank.node}"), str(rank.pid), *used)
        rows.append((*own, step) if reports else own)
    lines = [table(rows)] if now.ranks else []
    lines += [f"unknown: no answer from {safe(host)}" for host in now.silent]
    lines += [f"unknown: {safe(now.why)}"] if now.why else []
    return "\n".join(lines) or "no ranks are running"


def rm(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Delete finished runs."""
    from muster.client import pruning

    asked = parse_command(RmOptions, "rm", words, env)
    if asked is None:
        return 0
    options, rest, store = asked
    if not rest:
        raise InvalidRequest("`muster rm` requires a run", "list runs with `muster ps -a`")
    chosen = [named(store, which) for which in rest]
    pruning.refuse_living(chosen, ANSWERS_WITHIN, options.force)
    for run in chosen:
        pruning.delete(store, run)
        print(f"deleted {run.id}")
    return 0


def prune(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Delete old finished runs."""
    from muster.client import pruning

    asked = parse_command(PruneOptions, "prune", words, env)
    if asked is None:
        return 0
    options, _, store = asked
    if not options.given(PruneOptions.older_than, PruneOptions.keep):
        hint = "for example, `muster prune --older-than 30d` or `muster prune --keep 20`"
        raise InvalidRequest("`muster prune` requires `--older-than AGE` or `--keep N`", hint)
    old = pruning.ended(_old(store.here, options.older_than or 0.0, options.keep), _WITHIN)
    if old:
        print(table([(run.id, str(run.job.get("name", "")), started_in_words(run.job)) for run in old]))
    if options.dry_run:
        print(f"would delete {plural(len(old), 'run')}")
        return 0
    if old and not options.yes:
        if not agreed(f"delete {plural(len(old), 'run')}", "use --yes, or list the runs with --dry-run"):
            print("deleted 0 runs")
            return 1
        old = pruning.ended(old, _WITHIN)  # the question may have been open for long
    for run in old:
        pruning.delete(store, run)
    print(f"deleted {plural(len(old), 'run')}")
    return 0


def _old(store: Store, age: float, keep: int) -> list[Run]:
    """Return runs older than `age` seconds, except the newest `keep`; unreadable ones are reported and kept."""
    every, bound, found = folded(all_runs(store)), time.time() - age, []
    for run in every[: max(0, len(every) - keep)]:
        try:
            job, _ = run.job, run.outcome  # damage in either is reported
        except Unreadable as error:
            print(f"warning: not deleted: {error.sentence}", file=sys.stderr)
            continue
        if job.get("time", time.time()) < bound:
            found.append(run)
    return found
