"""The wording of runs and results. Equal things are grouped by ranks. Every sentence is in a golden file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from muster.core.hostlist import fold_hostlist
from muster.core.layout import named
from muster.core.model import BUNDLED, Plan, as_json
from muster.core.plurals import plural
from muster.core.printable import line as safe
from muster.core.results import FailureKind, RankExit, RunResult, RunState, StopKind, Unlogged
from muster.core.roles import named_in_roles, rank_in_words
from muster.diagnostics.hints import Domain
from muster.ui.command_text import command_of_role, how_it_was_started
from muster.ui.death_text import facts_in_words, signal_name
from muster.ui.formatting import seconds, size_in_words
from muster.ui.reason_text import (
    ended_in_words,
    hint_of,
    leftover_in_words,
    lost_in_words,
    reason_in_words,
    reason_with_hint,
    repeated_in_words,
    replaced_in_words,
    without_verdict,
)
from muster.ui.summary import (
    Fate,
    FirstFailure,
    Step,
    caused_by_others_only,
    facts_of,
    failure_before,
    first_failure,
    missing_output,
    notes_of,
    other_ends,
    role_of,
    steps_of,
    time_of_failure,
)
from muster.ui.usage_text import usage_in_words


def begin_in_words(plan: Plan, run_id: str, facts: Mapping[str, Any]) -> str:
    """Return the first line of a run: what starts, and with which Python."""
    job = plan.job
    launcher = "exec" if job.launcher == "fork" and not facts.get("fork") else job.launcher
    of_roles = ", ".join(f"{role.name} {role.ranks}" for role in plan.roles)
    launcher = "/".join(dict.fromkeys(role.job.launcher for role in plan.roles)) or launcher
    words = f"{run_id}: {plural(plan.world_size, 'rank')}{f' ({of_roles})' if of_roles else ''}, launcher {launcher}"
    if all(command.python_index is None for command in plan.commands):
        return f"{words}, `{job.program.argv[0].removeprefix(BUNDLED)}`"
    threads = _threads({node.host.threads for node in plan.nodes})
    versions = [f"Python {safe(facts['python'])}"] if facts.get("python") else []
    versions += [f"torch {safe(facts['torch'])}"] if facts.get("torch") else []
    python = safe(facts.get("executable", job.python))
    return f"{words}, {threads}, {python} ({', '.join(versions)}; {job.python_source})"


def _threads(found: Iterable[int | None]) -> str:
    """Return the number of OpenMP threads of each rank, which may differ between hosts."""
    counts = {count or 0 for count in found}
    if counts == {0}:
        return "OMP_NUM_THREADS as set"
    few, many = min(counts), max(counts)
    return f"{plural(few, 'thread')} each" if few == many else f"{few} to {many} threads each"


# ---- results --------------------------------------------------------------------------------------------------------


def outcome_in_words(
    outcome: RunResult, operand: str, world_size: int, hosts: Sequence[str] = (), notes: Sequence[str] = ()
) -> str:
    """Return the result of a run: one line for a success, else which rank failed first, why, and what others did.

    `operand` names the run in commands; `hosts` are the names of its nodes. `notes` are lines that follow it:
    what changed since the last successful run of the script, and where its report is.
    """
    lines: list[str] = []
    failed = first_failure(outcome, hosts)
    after = f"after {seconds(outcome.duration)}" if outcome.duration else "before it started"
    if outcome.is_released:
        lines.append(f"{reason_in_words(outcome.stopped)}, {after}")
    elif outcome.state is RunState.SUCCEEDED and outcome.stopped is not None:
        others = [end.rank for end in outcome.exits if not end.ok]
        then = f"; terminated {named_in_roles(others, outcome.roles)}" if others else ""
        lines.append(f"{reason_in_words(outcome.stopped)} in {seconds(outcome.duration)}{then}")
    elif outcome.state is RunState.SUCCEEDED:
        lines.append(f"{_all(world_size)} succeeded in {seconds(outcome.duration)}")
    elif failed is not None:
        lines += _failure_in_words(failed, outcome)
        if outcome.repeated is not None:
            lines += [repeated_in_words(outcome.repeated, failed.end), _RESTART_ANYWAY]
    else:
        reason = _indented(reason_in_words(without_verdict(outcome.stopped)))
        lines += [_indented(safe(hang))] if (hang := _verdict_on_hang(outcome)) else []
        lines.append(f"error: {reason}" if outcome.state is RunState.ERROR else f"stopped {after}: {reason}")
        hint = hint_of(outcome.stopped)
        lines += [f"hint: {_indented(hint)}"] if hint else []
        before = failure_before(outcome, hosts)
        if before is not None:
            lines.append(f"{_who(before, outcome)} failed before that: {ended_in_words(before.end)}")
            failure = before.end.failure
            summary = [f"    {safe(failure.summary)}"] if failure is not None and failure.summary else []
            lines += _last_words(before.end) or summary
            lines += [f"hint: {safe(before.hint)}"] if before.hint else []
    begin = len(lines)
    lines += _few(list(map(replaced_in_words, outcome.replaced)), "hosts")
    if outcome.state is not RunState.SUCCEEDED:
        lines += _few(others_in_words(outcome), "groups of ranks", max(_MOST_ALIKE, _MOST_LINES - len(lines) - 1))
    lines += _few(
        [f"note: {named_in_roles(note.ranks, outcome.roles)}: {safe(note.text)}" for note in notes_of(outcome)], "notes"
    )
    lines += _few(list(map(leftover_in_words, outcome.leftovers)), "processes")
    lines += _few(list(map(lost_in_words, outcome.lost)), "hosts")
    lines += _few(unlogged_in_words(outcome.unlogged), "logs")
    if outcome.state is not RunState.SUCCEEDED:
        lines = _fitting(lines, begin)
    if outcome.state is not RunState.SUCCEEDED and outcome.exits:
        rank = f" --rank {outcome.root_cause.rank}" if outcome.root_cause is not None else ""
        lines.append(f"log: muster logs {operand}{rank}" if rank else f"logs: muster logs {operand}")
    lines += notes
    return "\n".join(lines)


def _verdict_on_hang(outcome: RunResult) -> str:
    """Return which rank kept the others waiting, if the run was stopped for that; empty otherwise."""
    stopped = outcome.stopped
    return stopped.message if stopped is not None and stopped.kind is StopKind.HANG else ""


_RESTART_ANYWAY = "hint: --always-restart uses all of --max-restarts"


def reason_of_end(outcome: RunResult, hosts: Sequence[str] = ()) -> str:
    """Return why a run did not succeed, in one line; empty if it did."""
    if outcome.state is RunState.SUCCEEDED:
        return ""
    return outcome_in_words(outcome, "", len(outcome.exits), hosts).partition("\n")[0]


def outcome_as_json(outcome: RunResult) -> dict[str, Any]:
    """Return the JSON of a result: its fields, and the stop reason as a sentence (`reason`)."""
    found: dict[str, Any] = as_json(outcome)
    for end, told in zip(outcome.exits, found["exits"]):
        told["role"] = role_of(end, outcome)
    first = failure_before(outcome)
    judged = first.judgement._asdict() if first is not None else {"domain": None, "retry": None}
    return {**found, **judged, "reason": reason_with_hint(outcome.stopped)}


def unlogged_in_words(unlogged: Iterable[Unlogged]) -> list[str]:
    """Return which output is missing in the logs: a line per reason."""
    lines = []
    for ranks, size, why in missing_output(unlogged):
        whose = "its log" if len(ranks) == 1 else "their logs"
        lines.append(f"{named(ranks)}: {size_in_words(size)} of output missing from {whose}: {safe(why)}")
    return lines


def _indented(text: str) -> str:
    """Return a text with its further lines indented, as it may come from a host and must not imitate muster's lines."""
    return text.replace("\n", "\n    ")


def _all(count: int) -> str:
    return "rank 0" if count == 1 else f"all {count} ranks"


def after_start(end: RankExit) -> str:
    """Return when it failed, for a sentence."""
    return f"{seconds(time_of_failure(end))} after the start"


_MOST_LINES = 21
"""Maximum number of lines of a report, without the lines that name the log and the page."""
_MOST_ALIKE = 3
"""Maximum number of lines about similar things."""


def _few(lines: list[str], what: str, most: int = _MOST_ALIKE) -> list[str]:
    """Return the first lines, and how many are left out."""
    return lines if len(lines) <= most + 1 else [*lines[:most], f"... and {len(lines) - most} more {what}"]


def _fitting(lines: list[str], begin: int) -> list[str]:
    """Shorten the output of the rank, the indented lines before `begin`, if the report is too long."""
    excess = len(lines) - _MOST_LINES
    shown = [index for index in range(begin) if lines[index].startswith("    ")]
    if excess <= 0 or len(shown) < 4:
        return lines
    # the exception stands at the end, and what led to it after that
    first = shown[0] + 1
    cut = min(excess + 1, len(shown) - 3)
    return [*lines[:first], "      ...", *[line for line in lines[first + cut :] if line.strip() != "..."]]


def _who(failed: FirstFailure, outcome: RunResult) -> str:
    name = rank_in_words(failed.end.rank, outcome.roles)
    return name + (f" on {safe(failed.host)}" if failed.among_others else "")


def _failure_in_words(failed: FirstFailure, outcome: RunResult) -> list[str]:
    """Return the message and place, who failed first and how, the last words, and what may help."""
    first = failed.end
    restarts = f" (after {plural(outcome.attempt, 'restart')})" if outcome.attempt else ""
    headline = _headline(failed, outcome)
    how = ended_in_words(first)
    if failed.missing:
        how = _missed_in_words(failed, outcome)
    if len(failed.alike) == len(outcome.exits) > 1:
        lines = [headline, f"exit status {first.status}, {after_start(first)}{restarts}"]
    elif caused_by_others_only(first):
        what = _CASCADES.get(first.failure.kind, "failed") if first.failure is not None else "failed"
        lines = [
            f"no rank failed by itself; {_who(failed, outcome)} {what} first, {after_start(first)}{restarts}: {how}"
        ]
    else:
        lines = [headline] if headline else []
        others = {end.rank for end in outcome.exits} - {first.rank}
        lines.append(
            f"{_who(failed, outcome)} failed{' first' if others else ''}, {after_start(first)}{restarts}: {how}"
        )
    lines += _last_words(first)
    lines += facts_in_words(first)
    lines += [f"hint: {safe(failed.hint)}"] if failed.hint else []
    lines += _judgement_in_words(failed)
    return lines


def _headline(failed: FirstFailure, outcome: RunResult) -> str:
    """Return what happened and where, for the first line of a report; empty if it is not known."""
    failure, rank = failed.end.failure, _who(failed, outcome)
    if failed.end.ok:
        return f"{rank}: exited with status 0 while other ranks still worked"
    if failure is None or failure.kind is FailureKind.NEVER_REGISTERED or not failure.summary:
        return ""
    summary = safe(failure.summary.removeprefix("  what():").strip())
    place = f" ({safe(failure.place)})" if failure.place else ""
    if failure.kind is FailureKind.ABSENT and failure.proven:
        return summary  # a verdict, which names the rank
    if failure.kind is FailureKind.ABSENT:
        return f"{named_in_roles(failed.missing, outcome.roles)}: did not come to where others waited: {summary}{place}"
    if len(failed.alike) > 1:
        name, _, text = summary.partition(":")
        who = (
            _all(len(failed.alike))
            if len(failed.alike) == len(outcome.exits)
            else named_in_roles(failed.alike, outcome.roles)
        )
        within = f"within {max(failed.within, 0.1):.1f}s"
        if failure.kind is FailureKind.EXIT:
            return f"{who} exited with status {failed.end.code} {within}: {summary}"
        return f"{who} raised {name} {within}" + (f":{text}" if text else "") + place
    told = failure.kind is not FailureKind.EXIT or failed.end.signal is None or _FATAL.match(failure.summary)
    return f"{rank}: {summary}{place}" if told else ""


_CASCADES = {
    FailureKind.PEER_LOST: "lost a peer",
    FailureKind.TIMED_OUT: "waited for others in vain",
    FailureKind.NO_CONNECTION: "did not reach the rendezvous",
    FailureKind.MISMATCH: "met another collective than it called",
}
_FATAL = re.compile(r"\s*what\(\):|terminate called|Fatal Python error")


def _missed_in_words(failed: FirstFailure, outcome: RunResult) -> str:
    """Return what ranks did that the others missed, as the end of a sentence."""
    if failed.end.ok:
        return "exit status 0, too early"
    waited = [end.rank for end in outcome.exits if not end.ok and not end.by_muster and end.rank not in failed.missing]
    if failed.end.failure is not None and failed.end.failure.proven and waited:
        return f"{named_in_roles(waited, outcome.roles)} failed because of it"
    return f"did not come, {named_in_roles(waited, outcome.roles)} waited in vain" if waited else "did not come"


def _judgement_in_words(failed: FirstFailure) -> list[str]:
    """Return what the failure is due to, as far as it is known."""
    domain, retry = failed.judgement
    helps = "" if retry is None else "a restart may help" if retry else "a restart is unlikely to help"
    cause = _DOMAINS.get(domain, "")
    told = "; ".join(filter(None, (f"likely cause: {cause}" if cause else "", helps)))
    return [told] if told else []


_DOMAINS: Mapping[Domain, str] = {
    Domain.ENVIRONMENT: "packages, limits, memory or disk, rather than the script",
    Domain.INFRASTRUCTURE: "a host, the network or a file system, rather than the script",
}
"""What a failure is due to, where that is more than the traceback says."""


def _last_words(end: RankExit) -> list[str]:
    return [f"    {safe(line)}" for line in end.failure.frames] if end.failure is not None else []


def others_in_words(outcome: RunResult) -> list[str]:
    """Return what happened to the ranks that did not fail first, with a line per group."""
    return [
        f"{named_in_roles(ranks, outcome.roles)}: {_fate_in_words(fate, end)}"
        for ranks, fate, end in other_ends(outcome)
    ]


def _fate_in_words(fate: Fate, end: RankExit) -> str:
    how = signal_name(end.signal) if end.signal is not None else f"exit status {end.code}"
    return {
        Fate.SUCCEEDED: "succeeded",
        Fate.TERMINATED: f"terminated by muster ({how})",
        Fate.TERMINATED_BY_LAUNCHER: f"terminated by the launcher ({how})",
        Fate.PEER_LOST: "failed afterwards (lost peer)",
        Fate.TIMED_OUT: "failed afterwards (waited in vain)",
        Fate.MISMATCH: "failed afterwards (different collectives)",
        Fate.FAILED: ended_in_words(end),
    }[fate]


# ---- runs -----------------------------------------------------------------------------------------------------------


def _how_in_words(job: Mapping[str, Any], facts: Mapping[str, Any], hosts: Sequence[str]) -> list[str]:
    """Return the launcher and Python of a run, as far as they are known."""
    asked = job.get("job", {})
    launcher = str(asked.get("launcher", ""))
    if launcher == "fork" and facts.get("fork") is False:
        launcher = "exec"
    lines = [f"launcher {launcher}, {plural(job['ranks'], 'rank')}" if job.get("ranks") else f"launcher {launcher}"]
    if len(hosts) > 1:
        lines[0] += f" on {fold_hostlist(hosts)}"
    if asked.get("program", {}).get("kind") != "command" and "executable" in facts:
        torch = f", torch {facts['torch']}" if "torch" in facts else ""
        lines.append(f"python   {facts['executable']} (Python {facts.get('python', '?')}{torch})")
    if facts.get("found"):
        lines.append(f"preload  {', '.join(map(str, facts['found']))} (imported by the last run of this script)")
    return [safe(line) for line in lines] if launcher else []


def show_in_words(
    run_id: str,
    job: Mapping[str, Any],
    state: str,
    outcome: RunResult | None,
    events: Sequence[Mapping[str, Any]],
    hosts: Sequence[str] = (),
    operand: str = "",
    now: str = "",
    notes: Sequence[str] = (),
    where: Sequence[str] = (),
) -> str:
    """Return the details of a run; `hosts` are the names of its nodes, `operand` names it if its id does not suffice.

    `now` is the text of its ranks' resource usage, `notes` as in `outcome_in_words`. `where` are lines about its job
    and its hosts.
    """
    lines = [f"run      {run_id}" + (f"  ({safe(job['name'])})" if job.get("name") else "")]
    lines.append(f"state    {safe(state)}")
    lines.append(f"command  {how_it_was_started(job)}")
    on = job.get("host", "?")  # empty while a job is pending
    lines.append(f"cwd      {safe(job.get('cwd', '?'))}" + (f" on {safe(on)}" if on else ""))
    lines.append(f"{'submitted' if job.get('scheduler') else 'started '} {safe(job.get('started', '?'))}")
    lines += _how_in_words(job, facts_of(events), hosts)
    lines += _roles_in_words(job.get("roles"))
    lines += where
    lines += ["", now] if now else []
    if outcome is not None:
        lines += ["", outcome_in_words(outcome, operand or run_id, len(outcome.exits), hosts, notes)]
        if outcome.state is RunState.SUCCEEDED and outcome.attempt:
            lines.append(f"attempt {outcome.attempt}")
        uses = usage_in_words(outcome.exits)
        lines += ["", uses] if uses else []
    spans = steps_of(events)
    if spans:
        lines += ["", "startup, in seconds"]
        lines += [f"  {length:7.3f}  {STEPS[step]}" for step, length in spans]
        lines.append(f"  {sum(length for _, length in spans):7.3f}  total")
    return "\n".join(lines)


def _roles_in_words(roles: Any) -> list[str]:
    """Return the lines about the roles of a run, from its record."""
    return [
        f"{'role':<8} {safe(str(role.get('name')))}: {plural(role.get('ranks') or 0, 'rank')}, "
        f"`{safe(command_of_role(role))}`"
        for role in roles or ()
    ]


STEPS: Mapping[Step, str] = {
    Step.MUSTER: "start muster",
    Step.PROBE: "look at the Python of the ranks",
    Step.REACH: "connect to the hosts, look at their Python",
    Step.PYTHON: "start Python",
    Step.IMPORT: "import torch and --preload modules",
    Step.PREPARE_FORK: "after the imports, before the first rank",
    Step.PREPARE: "before the first rank",
    Step.START: "start the ranks",
    Step.FIRST_OUTPUT: "until the first rank printed something",
    Step.LAST_OUTPUT: "until all ranks had printed something",
}
"""The start-up steps."""
