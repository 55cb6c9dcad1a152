"""Reads what the report of a run shows from its run directory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Callable, TypeVar

from muster import __version__
from muster.core.comparison import RunFacts, options_in_words, since
from muster.core.env_forwarding import secrets_of, without_secrets
from muster.core.folding import fold_texts
from muster.core.inspection import Snapshot
from muster.core.model import Job, Plan
from muster.core.progress import Progress
from muster.core.results import RankExit, RoleRanks, RunResult, RunState
from muster.core.roles import ranks_of
from muster.core.verdict import Verdict
from muster.diagnostics.hangs import verdict
from muster.errors import MusterError
from muster.report import logs
from muster.report.data import Attempt, Look, NodeStart, RankText, ReportData
from muster.report.history import attempts_of
from muster.report.measured import series_of
from muster.rundir.comparing import facts_for_comparison, last_success
from muster.rundir.pace import read_pace
from muster.rundir.progress import progress_at_end, progress_in_run_dir
from muster.rundir.run import Run, Unreadable
from muster.rundir.snapshots import snapshots
from muster.ui.command_text import how_it_was_started
from muster.ui.pace_text import pace_in_words
from muster.ui.summary import steps_of

_SNAPSHOTS = 3
"""Maximum number of snapshots on the page."""
T = TypeVar("T")

_AT_ONCE = 0.5
"""Seconds by which the report of an exit may be later than a snapshot without that rank."""


def collect(run: Run, env: Mapping[str, str], state: str = "", events: Sequence[Mapping[str, Any]] = ()) -> ReportData:
    """Return what the report of a run shows. Raises `Unreadable`.

    `env` is the environment, whose secret values are removed from the ends of logs. `state` is the present state of the
    run, `events` are its events if they were read already.
    """
    job, plan, outcome = run.job, run.plan, run.outcome
    told = list(events) or run.events()
    facts = facts_for_comparison(run, state)
    began = job.get("time", time.time())
    now = outcome.duration if outcome is not None else max(0.0, time.time() - began)
    attempts = attempts_of(told, plan, outcome)
    secrets = secrets_of(env)
    clean = lru_cache(None)(partial(without_secrets, values=secrets))  # ranks that fail alike write the same
    before = _before(run, outcome)
    return ReportData(
        run_id=run.id,
        operand=run.operand,
        name=job.get("name", ""),
        command=how_it_was_started(job),
        cwd=f"{job.get('cwd', '?')} on {job.get('host') or '?'}",
        started=_moment(began),
        state=state or (str(outcome.state) if outcome is not None else str(RunState.RUNNING)),
        made=_moment(time.time()),
        muster=job.get("muster", __version__),
        launcher=str(job.get("job", {}).get("launcher", "")),
        hosts=run.hosts,
        ranks=plan.world_size if plan is not None else job.get("ranks", 0),
        outcome=_cleaned(outcome, clean),
        now=now,
        progress=_progress(run, outcome),
        attempts=_cleaned(attempts, clean),
        startup=_startup(told, plan),
        tracebacks=_tracebacks(outcome, run.hosts, clean),
        looks=tuple(look._replace(verdict=_cleaned(look.verdict, clean)) for look in _looks(run, attempts, began)),
        resources=series_of(run, attempts[-1].number) if attempts else (),
        logs=logs.ends_of_logs(run, attempts[-1] if attempts else None, outcome, secrets),
        before=before,
        changes=since(before, facts) if before is not None else (),
        provenance=facts.provenance,
        options=_options(facts),
        pace=_pace(run),
    )


def _cleaned(value: T, clean: Callable[[str], str]) -> T:
    """Return a record with all texts in it cleaned: what ranks wrote stands in several of its fields."""
    found: Any = value
    if type(found) is str:  # not a member of an enumeration
        found = clean(found)
    elif isinstance(found, tuple):
        items = [_cleaned(item, clean) for item in found]
        found = type(found)(*items) if hasattr(found, "_fields") else tuple(items)
    cleaned: T = found
    return cleaned


def _progress(run: Run, outcome: RunResult | None) -> Progress | None:
    """Return how far the run is, or was at its end."""
    return progress_at_end(outcome) if outcome is not None else progress_in_run_dir(run)


def _moment(at: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(at))
    except (ValueError, OverflowError, OSError):  # the file may be damaged
        return "?"


def _before(run: Run, outcome: RunResult | None) -> RunFacts | None:
    """Return the last successful run of the script, for a run that has failed or runs."""
    if outcome is not None and outcome.state is RunState.SUCCEEDED:
        return None
    try:
        found = last_success(run)
        return facts_for_comparison(found) if found is not None else None
    except (MusterError, OSError):
        return None


def _pace(run: Run) -> tuple[str, ...]:
    """Return which ranks were late, if the last look at the collectives found some."""
    try:
        pace = read_pace(run)
    except MusterError:
        return ()
    return tuple(pace_in_words(pace, run.hosts).splitlines()) if pace is not None and pace.slow else ()


def _options(facts: RunFacts) -> tuple[tuple[str, str], ...]:
    """Return the options that are not defaults."""
    usual = RunFacts("", options={name: value for name, value in Job._field_defaults.items() if name != "env"})
    defaults = options_in_words(usual)
    shown = {name: value for name, value in options_in_words(facts).items() if defaults.get(name) != value}
    if not facts.options.get("hang_from_start"):
        shown.pop("--hang-timeout", None)  # its default
    return tuple(shown.items())


def _startup(events: Sequence[Mapping[str, Any]], plan: Plan | None) -> tuple[NodeStart, ...]:
    """Return the steps of the start-up of each node."""
    if plan is None:
        return ()
    node_of = {rank.rank: node.number for node in plan.nodes for rank in node.ranks}
    of_node: dict[int, list[Mapping[str, Any]]] = {node.number: [] for node in plan.nodes}
    for event in events:
        if event["event"] == "output began":
            node = node_of.get(event.get("rank", -1), -1)
        else:
            node = event.get("node", -1) if event["event"] in ("hello", "warm", "started") else -1
        if node in of_node:
            of_node[node].append(event)
    found = (NodeStart(node, tuple(steps_of(several))) for node, several in of_node.items())
    return tuple(start for start in found if start.steps)


def _looks(run: Run, attempts: Sequence[Attempt], began: float) -> tuple[Look, ...]:
    """Return what the ranks did at the last moments of the last attempt that has snapshots, the last one first."""
    for attempt in reversed(attempts):
        try:
            found = snapshots(run, attempt.number)[-_SNAPSHOTS:]
        except Unreadable:
            continue
        if found:
            roles = ranks_of(run.plan) if run.plan is not None else ()
            return tuple(Look(each, _judged(each, attempt, began, roles)) for each in reversed(found))
    return ()


def _judged(snapshot: Snapshot, attempt: Attempt, began: float, roles: Sequence[RoleRanks]) -> Verdict:
    """Return why the ranks stood still at that moment."""
    there = {found.rank for found in snapshot.inspections}
    ends = [span.end for span in attempt.ranks if span.end is not None and span.rank not in there]
    before = [end for end in ends if end.when <= snapshot.when + _AT_ONCE]
    return verdict(snapshot, before, len(attempt.ranks), began, roles=roles)


def _tracebacks(outcome: RunResult | None, hosts: Sequence[str], clean: Callable[[str], str]) -> tuple[RankText, ...]:
    """Return what failed ranks wrote about their failures, the first failure first.

    Texts that are equal up to numbers appear once, as in `muster logs --fold`. `hosts`: the names of the run's nodes.
    """
    if outcome is None:
        return ()
    failed = [end for end in outcome.exits if _has_text(end)]
    if outcome.root_cause is not None and _has_text(outcome.root_cause):
        failed.insert(0, outcome.root_cause)
    texts: dict[int, str] = {}
    names: dict[int, str] = {}
    for end in failed:
        assert end.failure is not None
        texts.setdefault(end.rank, clean("\n".join(end.failure.frames)))
        names[end.rank] = hosts[end.node] if end.node < len(hosts) else ""
    turn = {rank: at for at, rank in enumerate(texts)}
    folded = sorted(fold_texts(texts, names), key=lambda found: min(turn[rank] for rank in found.ranks))
    return tuple(RankText(found.ranks, found.text) for found in folded)


def _has_text(end: RankExit) -> bool:
    """Return whether a rank failed by itself, or lost a peer, and wrote something."""
    return not (end.ok or end.by_muster or end.by_launcher) and end.failure is not None and bool(end.failure.frames)
