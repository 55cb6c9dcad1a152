"""Plans, runs and outcomes in words. Equal things are folded over ranks. Every sentence here is in a golden file."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from muster.core.env_forwarding import REDACTED, is_secret
from muster.core.fold import by_value
from muster.core.hostlist import fold_hostlist
from muster.core.layout import fold, named
from muster.core.model import BUNDLED, Command, Late, Plan, Rank, Template, Text, Variables, as_json
from muster.core.plurals import plural
from muster.core.printable import line as safe
from muster.core.results import FailureKind, RankExit, RunResult, RunState, Unlogged
from muster.diagnostics.hints import hint_for
from muster.ui.sentences import (
    ended_in_words,
    hint_of,
    leftover_in_words,
    lost_in_words,
    reason_in_words,
    reason_with_hint,
    signal_name,
)


def seconds(value: float) -> str:
    """`0.8 s`, `12 s`, `4 min 5 s`, `3 h 20 min`, `2 d 4 h`."""
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    for unit, size, small, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def begin_in_words(plan: Plan, run_id: str, facts: Mapping[str, Any]) -> str:
    """The first line of a run: what starts, and by which Python."""
    job = plan.job
    launcher = "exec" if job.launcher == "fork" and not facts.get("fork") else job.launcher
    words = f"{run_id}: {plural(plan.world_size, 'rank')}, launcher {launcher}"
    if all(command.python_at is None for command in plan.commands):
        return f"{words}, `{job.program.argv[0].removeprefix(BUNDLED)}`"
    threads = _threads({node.host.threads for node in plan.nodes})
    versions = [f"Python {safe(facts['python'])}"] if facts.get("python") else []
    versions += [f"torch {safe(facts['torch'])}"] if facts.get("torch") else []
    python = safe(facts.get("executable", job.python))
    return f"{words}, {threads}, {python} ({', '.join(versions)}; {job.python_why})"


def _threads(found: Iterable[int | None]) -> str:
    """OpenMP threads of each rank, which may differ from host to host."""
    counts = {count or 0 for count in found}
    if counts == {0}:
        return "OMP_NUM_THREADS as you set it"
    few, many = min(counts), max(counts)
    return f"{plural(few, 'thread')} each" if few == many else f"{few} to {many} threads each"


# ---- outcomes -------------------------------------------------------------------------------------------------------


def outcome_in_words(outcome: RunResult, operand: str, world_size: int, hosts: Sequence[str] = ()) -> str:
    """How a run ended: one line when all is well, else who failed first, why, and what became of the others.

    `operand` names the run in commands; `hosts` are the names of its nodes.
    """
    lines: list[str] = []
    after = f"after {seconds(outcome.duration)}" if outcome.duration else "before it started"
    if outcome.state is RunState.SUCCEEDED:
        lines.append(f"{_all(world_size)} ended well {after}")
    elif outcome.state is RunState.FAILED and outcome.first is not None and outcome.stopped is None:
        first = outcome.first
        attempt = f" after restart {outcome.attempt}" if outcome.attempt else ""
        host = safe(hosts[first.node]) if first.node < len(hosts) else ""
        on = f" on {host}" if hosts[1:] else ""
        lines.append(f"rank {first.rank}{on} failed first{attempt}, {after_start(first)}: {ended_in_words(first)}")
        lines += _last_words(first)
        hint = hint_for(first, host, len(hosts) > 1)
        lines += [f"hint: {safe(hint)}"] if hint else []
    else:
        reason = _indented(reason_in_words(outcome.stopped))
        lines.append(reason if outcome.state is RunState.BROKEN else f"ended {after}: {reason}")
        hint = hint_of(outcome.stopped)
        lines += [f"hint: {_indented(hint)}"] if hint else []
        if outcome.first is not None:
            lines.append(f"rank {outcome.first.rank} had failed: {ended_in_words(outcome.first)}")
    if outcome.state is not RunState.SUCCEEDED:
        lines += others_in_words(outcome)
    lines += map(leftover_in_words, outcome.left)
    lines += map(lost_in_words, outcome.lost)
    lines += unlogged_in_words(outcome.unlogged)
    if outcome.state is not RunState.SUCCEEDED and outcome.ends:
        rank = f" --rank {outcome.first.rank}" if outcome.first is not None else ""
        lines.append(f"its log: muster logs {operand}{rank}" if rank else f"the logs: muster logs {operand}")
    return "\n".join(lines)


def outcome_as_json(outcome: RunResult) -> dict[str, Any]:
    """What is written and sent of an outcome: its fields, and why the run was ended, in words (`reason`)."""
    found: dict[str, Any] = as_json(outcome)
    return {**found, "reason": reason_with_hint(outcome.stopped)}


def unlogged_in_words(unlogged: Iterable[Unlogged]) -> list[str]:
    """What is not in the logs of which ranks: a line for each cause."""
    lines = []
    for why, logs in by_value((lacks, lacks.why) for lacks in unlogged).items():
        count, ranks = sum(lacks.missing for lacks in logs), sorted({lacks.rank for lacks in logs})
        whose = "its log" if len(ranks) == 1 else "their logs"
        lines.append(f"{named(ranks)}: {size_in_words(count)} of output are not in {whose}: {safe(why)}")
    return lines


def _indented(text: str) -> str:
    """A text whose further lines cannot be taken for lines of muster: it may come from a host."""
    return text.replace("\n", "\n    ")


def _all(count: int) -> str:
    return "the rank" if count == 1 else f"all {count} ranks"


def after_start(end: RankExit) -> str:
    """When it failed, for a sentence."""
    when = end.failure.when if end.failure is not None else end.when
    return f"{seconds(when)} after the start"


def _last_words(end: RankExit) -> list[str]:
    return [f"    {safe(line)}" for line in end.failure.frames] if end.failure is not None else []


def others_in_words(outcome: RunResult) -> list[str]:
    """What became of the ranks that did not fail first, a line for each kind of end."""
    others = [end for end in outcome.ends if outcome.first is None or end.rank != outcome.first.rank]
    groups = by_value((end.rank, _kind(end)) for end in others)
    return [f"{named(ranks)}: {kind}" for kind, ranks in sorted(groups.items(), key=lambda item: item[1])]


def _kind(end: RankExit) -> str:
    if end.ok:
        return "ended well"
    if end.by_us:
        how = signal_name(end.signal) if end.signal is not None else f"exit status {end.code}"
        return f"ended by muster ({how})"
    if end.by_launcher:
        how = signal_name(end.signal) if end.signal is not None else f"exit status {end.code}"
        return f"ended by the launcher ({how})"
    if end.failure is not None and end.failure.kind is FailureKind.PEER_LOST:
        return "then failed for want of the others (lost peer)"
    return ended_in_words(end)


# ---- plans ----------------------------------------------------------------------------------------------------------


def plan_in_words(plan: Plan, run_id: str, run_dir: str, show_env: bool = False) -> str:
    """Everything that would be started, for a person to read. Equal commands are folded.

    The person's own variables are named; `show_env` shows their values too, but those of secrets.
    """
    job = plan.job
    timeout = "none" if job.timeout is None else f"{job.timeout:g} s"
    rows = [("launcher", f"{job.launcher}, {plural(plan.world_size, 'rank')} on {plural(len(plan.nodes), 'node')}")]
    if any(command.python_at is not None for command in plan.commands):
        rows.append(("python", f"{job.python} ({job.python_why})"))
    rows += [("folder", job.cwd)]
    rows += [("setup", line) for line in job.setup]
    rows += [("preload", ", ".join(job.preload))] if job.preload else []
    rows += [("stdin", f"this terminal, for rank {job.stdin}")] if job.stdin is not None else []
    rows.append(("ends", f"grace {job.grace:g} s, timeout {timeout}, at most {plural(job.max_restarts, 'restart')}"))
    rows.append(("files", f"{run_dir}/{run_id}/attempt_0/rank_00000.out, .err, and so on"))
    lines = [f"{name:<9} {text}" for name, text in rows]
    for commands in by_value((command, (command.node, command.argv)) for command in plan.commands).values():
        lines += ["", *_commands_in_words(plan, commands, show_env)]
    lines += _guests_in_words(plan, show_env) if plan.guests is not None else []
    return "\n".join([*lines, "", *_late_in_words(plan)])


_OF_AN_ATTEMPT = {Late.MASTER_ADDR, Late.MASTER_PORT, Late.RESTART_COUNT, Late.ERROR_FILE}


def _late_in_words(plan: Plan) -> list[str]:
    """The variables of ranks whose values come later."""
    # where to meet is among them, though it may be the launcher that tells the ranks
    of_attempt = dict.fromkeys(("MASTER_ADDR", "MASTER_PORT"))
    of_node: dict[str, None] = {}
    for of in plan.environments:
        for name, value in ((name, value) for part in (of.env, *of.ranks, of.defaults) for name, value in part.items()):
            if not isinstance(value, str):
                (of_attempt if value in _OF_AN_ATTEMPT else of_node)[name] = None
    port = "node 0 looks for a free port" if plan.own_meeting else "node 0 binds a free port and keeps it"
    lines = [f"known when an attempt starts: {', '.join(of_attempt)} ({port})"]
    return [*lines, f"known when the nodes have been reached: {', '.join(of_node)}"] if of_node else lines


def _commands_in_words(plan: Plan, commands: Sequence[Command], show_env: bool) -> list[str]:
    """Commands that differ by nothing but their ranks."""
    first = commands[0]
    host = plan.nodes[first.node].host.name
    ranks = [rank for command in commands for rank in command.ranks]
    lines = [f"on {host}: {' '.join(map(_word, first.argv))}"]
    if first.launcher:
        lines.append("  started once, with")
        lines += _set(plan, first.env, first.defaults, show_env)
    else:
        how = "started once, and forks" if first.forks else "started once for" + (" each of" if len(ranks) > 1 else "")
        of = plan.environments[first.node]
        lines.append(f"  {how} {named(rank.rank for rank in ranks)}, with")
        lines += [*_set(plan, of.env, of.defaults, show_env), *_ranks_in_words(plan, first.node, ranks)]
    for file in first.files:
        lines += [f"  {_plain(file.path)}:", *(f"    | {line}" for line in _plain(file.text).splitlines())]
    return lines


def _guests_in_words(plan: Plan, show_env: bool) -> list[str]:
    """What ranks run that an external launcher starts, where they are expected, and with which environment."""
    assert plan.guests is not None
    lines = ["", f"each rank, once $MUSTER_RANK has asked the agent: {' '.join(map(_word, plan.guests.argv))}"]
    env = _shared([of.env for of in plan.environments])
    defaults = _shared([of.defaults for of in plan.environments])
    lines += ["  with", *_set(plan, env, defaults, show_env)]
    for node, of in zip(plan.nodes, plan.environments):
        lines.append(f"  {named(rank.rank for rank in node.ranks)} expected on {node.host.name}, with")
        lines += _set(plan, _without(of.env, env), _without(of.defaults, defaults), show_env)
        lines += _ranks_in_words(plan, node.number, node.ranks)
    return lines


def _shared(each: Sequence[Variables]) -> Variables:
    """What all of them have alike."""
    return {name: value for name, value in each[0].items() if all(other.get(name) == value for other in each)}


def _without(variables: Variables, others: Variables) -> Variables:
    return {name: value for name, value in variables.items() if name not in others}


def _ranks_in_words(plan: Plan, node: int, ranks: Iterable[Rank]) -> list[str]:
    """A line for each of these ranks of a node: what is set for it alone, but for values that come later."""
    lines = []
    for rank in ranks:
        own = plan.environments[node].ranks[rank.local_rank]
        names = " ".join(f"{name}={value}" for name, value in own.items() if isinstance(value, str))
        cpus = f"  cores {fold(rank.cpus)}" if rank.cpus else ""
        lines.append(f"    rank {rank.rank}: {names}{cpus}")
    return lines


def _set(plan: Plan, env: Variables, defaults: Variables, show_env: bool) -> list[str]:
    """A line for each variable whose value is known, or names a file; the user's own are named in one line."""
    theirs = sorted(name for name in plan.job.env if name in env) if not show_env else []
    shown = [(name, value) for name, value in sorted(env.items()) if not isinstance(value, Late) and name not in theirs]
    lines = [f"    {name}={_value(name, value)}" for name, value in shown]
    lines += [f"    and {', '.join(theirs)}   (their values: --show-env)"] if theirs else []
    known = [(name, value) for name, value in sorted(defaults.items()) if isinstance(value, str)]
    return [*lines, *(f"    {name}={_value(name, value)}   (unless set)" for name, value in known)]


def _word(text: Text) -> str:
    """As a shell reads it, on one line; what comes later stands there as a variable: `--port=$MASTER_PORT`."""
    if isinstance(text, Template):
        return "".join(map(_word, text.parts))
    if isinstance(text, Late):
        return f"${text.key}"
    return shlex.quote(text) if text.isprintable() else "$" + repr(text)


def _plain(text: Text) -> str:
    """The same without quotes: the text of a file, or its path."""
    parts = text.parts if isinstance(text, Template) else (text,)
    return "".join(f"${part.key}" if isinstance(part, Late) else part for part in parts)


def _value(name: str, value: Text) -> str:
    """The value of a variable, unless its name says that it is a secret."""
    return REDACTED if isinstance(value, str) and is_secret(name, value) else _word(value)


# ---- runs -----------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns. What is in a cell cannot begin another row."""
    rows = [[safe(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


_SHORTEST = 12
"""Characters to which the last column of a table is shortened before other columns are left out."""


def fitted(rows: Sequence[Sequence[str]], width: int, spare: Sequence[str]) -> str:
    """The same, no wider than a terminal as far as that can be: the last column is shortened, then those columns are
    left out whose heads are in `spare`, in this order."""
    rows = [[safe(cell) for cell in row] for row in rows]
    for head in ("", *spare):
        if head in rows[0]:
            column = rows[0].index(head)
            rows = [[*row[:column], *row[column + 1 :]] for row in rows]
        widths = [max(len(row[column]) + 2 for row in rows) for column in range(len(rows[0]) - 1)]
        room = width - sum(widths)
        if room >= min(_SHORTEST, max(len(row[-1]) for row in rows)):
            break
    return table([[*row[:-1], shortened(row[-1], max(_SHORTEST, room))] for row in rows])


def shortened(text: str, width: int) -> str:
    """A text of at most so many characters, with an ellipsis for what is left out."""
    return text if len(text) <= width else text[: width - 1] + "…"


def program_in_words(kind: str, argv: Sequence[str]) -> str:
    """What each rank runs, as it was typed."""
    first = argv[0].removeprefix(BUNDLED)
    return " ".join(["-m"] * (kind == "module") + [_word(word) for word in (first, *argv[1:])])


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e18


def phases(events: Iterable[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """How long each step of the start took, on the node that was ready last: [(words, seconds)], from the events."""
    events = [event for event in events if _is_time(event.get("t"))]  # the file may be damaged
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        if event.get("attempt", 0) == 0:
            by_kind.setdefault(str(event.get("event")), []).append(event)

    def last(kind: str) -> Mapping[str, Any] | None:
        return max(by_kind.get(kind, ()), key=lambda event: float(event["t"]), default=None)

    marks: list[tuple[str, float]] = []
    hello, warm, started = last("hello"), last("warm"), last("started")
    if hello is not None:
        marks.append(("muster itself, until its agent runs", hello["t"]))
    if warm is not None:
        told = warm.get("times")
        times = {name: when for name, when in told.items() if _is_time(when)} if isinstance(told, dict) else {}
        proof = "a look at the Python" if hello is not None else "reaching the hosts, and a look at the Python"
        for name, words in (
            ("begun", proof),
            ("python", "python starts"),
            ("imported", "imports torch and what --preload names"),
        ):
            if name in times:
                marks.append((words, times[name]))
        marks.append(("gets ready to fork" if warm.get("fork") else "gets ready", warm["t"]))
    if started is not None:
        marks.append(("ranks are started", started["t"]))
    began = [event["t"] for event in events if event.get("event") == "output began" and event.get("attempt") == 0]
    if began:
        marks.append(("first output of a rank", min(began)))
        marks.append(("first output of the last rank", max(began)))
    spans, before = [], 0.0
    for words, when in marks:
        spans.append((words, max(0.0, when - before)))
        before = when
    return spans


def facts_of(events: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What is known of the Python of the ranks, from the events: `executable`, `python`, `torch`, and whether they
    `fork`."""
    found: dict[str, Any] = {}
    for event in events:
        if event["event"] == "begin" and isinstance(event.get("facts"), dict):
            found.update(event["facts"])
        elif event["event"] in ("hello", "warm") and event.get("node") == 0:
            found.update({name: value for name, value in event.items() if value is not None})
    kinds: Mapping[str, type] = {"executable": str, "python": str, "torch": str, "fork": bool}
    return {name: found[name] for name, kind in kinds.items() if isinstance(found.get(name), kind)}


def _how_in_words(job: Mapping[str, Any], facts: Mapping[str, Any], hosts: Sequence[str]) -> list[str]:
    """By which launcher and which Python a run goes, as far as that is known."""
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
    return [safe(line) for line in lines] if launcher else []


def size_in_words(count: int) -> str:
    """`1 byte`, `980 bytes`, `9.8 KiB`, `412 MiB`, `1.3 GiB`: of 1024, as options take sizes."""
    if count < 10_000:
        return plural(count, "byte")
    value, unit = count / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if value >= 999.5:
            value, unit = value / 1024, larger
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"


def show_in_words(
    run_id: str,
    job: Mapping[str, Any],
    state: str,
    outcome: RunResult | None,
    events: Sequence[Mapping[str, Any]],
    hosts: Sequence[str] = (),
    operand: str = "",
    now: str = "",
) -> str:
    """All that is known of a run; `hosts` are the names of its nodes, `operand` names the run where its id does not.

    `now` is what its ranks use, in words.
    """
    lines = [f"run      {run_id}" + (f"  ({safe(job['name'])})" if job.get("name") else "")]
    lines.append(f"state    {safe(state)}")
    lines.append(f"command  {' '.join(map(_word, job.get('argv', [])))}")
    lines.append(f"folder   {safe(job.get('cwd', '?'))} on {safe(job.get('host', '?'))}")
    lines.append(f"{'submitted' if job.get('scheduler') else 'started '} {safe(job.get('started', '?'))}")
    lines += _how_in_words(job, facts_of(events), hosts)
    lines += ["", now] if now else []
    if outcome is not None:
        lines += ["", outcome_in_words(outcome, operand or run_id, len(outcome.ends), hosts)]
        if outcome.state is RunState.SUCCEEDED and outcome.attempt:
            lines.append(f"in attempt {outcome.attempt}")
    spans = phases(events)
    if spans:
        lines += ["", "start-up, in seconds"]
        lines += [f"  {length:7.3f}  {words}" for words, length in spans]
        lines.append(f"  {sum(length for _, length in spans):7.3f}  in all")
    return "\n".join(lines)
