"""Parsing of the JSON records of a run, its plan and its outcome: each field is checked before it is used."""

from __future__ import annotations

from typing import Any

from muster.core.json_checks import (
    FORMER_KEYS,
    Malformed,
    any_whole,
    by_present_keys,
    cells,
    checked,
    flag,
    late_text,
    number,
    one_of,
    optional,
    pair,
    record,
    several,
    text,
    texts,
    texts_by_name,
    variables,
    whole,
)
from muster.core.model import (
    Command,
    Host,
    Job,
    LastImports,
    Node,
    NodeEnvironment,
    Plan,
    Program,
    Rank,
    RankCommand,
    Role,
    TerminalSize,
    TextFile,
)
from muster.core.results import (
    DiskSpace,
    ExitFacts,
    Failure,
    FailureKind,
    Leftover,
    LostNode,
    MemoryCgroup,
    Problem,
    ProblemKind,
    RankExit,
    RankUsage,
    Repeated,
    Replaced,
    ResourceLimit,
    RoleRanks,
    RunResult,
    RunState,
    StopKind,
    StopReason,
    Unlogged,
)


def _files(value: Any) -> tuple[TextFile, ...]:
    """Parse the files of a command; earlier versions wrote an object {name: text}."""
    if isinstance(value, dict):
        return tuple(TextFile(name, item) for name, item in texts_by_name(value).items())
    files: tuple[TextFile, ...] = several(lambda item: record(TextFile, _FILE, item, TextFile._fields))(value)
    return files


_FILE = {"path": late_text, "text": late_text}


_PROGRAM = {"kind": text, "argv": texts, "source": text}


def program_from_json(data: Any) -> Program:
    """Parse a program. Raises `Malformed`."""
    found: Program = record(Program, _PROGRAM, data, ("kind", "argv"))
    return found


_LAST_IMPORTS = {"program": text, "run": text, "packages": text, "names": texts, "unfit": texts_by_name}

_TERMINAL = {"rows": cells, "columns": cells, "term": text}

_JOB = {
    "program": program_from_json,
    "launcher": text,
    "python": text,
    "python_source": text,
    "cwd": text,
    "transport": text,
    "name": text,
    "env": texts_by_name,
    "setup": texts,
    "preload": texts,
    "last_imports": optional(lambda data: record(LastImports, _LAST_IMPORTS, data, ("program",))),
    "wrap": texts,
    "binding": text,
    "stdin": optional(whole),
    "grace": number,
    "timeout": optional(number),
    "hang_timeout": number,
    "on_hang": text,
    "on_end": text,
    "hang_from_start": flag,
    "script_spawns": flag,
    "launcher_args": texts,
    "max_restarts": whole,
    "always_restart": flag,
    "restart_delay": number,
    "spare_nodes": whole,
    "ssh": texts,
    "allocation": text,
    "passes": texts,
    "signals_to_handle": text,
    "role": text,
    "terminal": optional(lambda data: record(TerminalSize, _TERMINAL, data, ("rows", "columns"))),
    "log_dir": text,
    "lease": number,
    "rendezvous": text,
    "python_named": flag,
    "hold": optional(number),
    **dict.fromkeys(("session", "scheduler", "runtime", "runtime_value", "runs"), text),
    "mounts": texts,
}

_HOST = {
    "name": text,
    "user": text,
    "python": text,
    "setup": texts,
    "gpus": texts,
    "threads": optional(whole),
    "cpus": several(several(whole)),
    "cpus_of_tasks": optional(whole),
}

_RANK = {
    **dict.fromkeys(("rank", "local_rank", "node", "world_size", "local_world_size", "nodes"), whole),
    "cpus": several(whole),
}
_NAMES_OF_RANK = ("rank", "local_rank", "node", "world_size", "local_world_size", "nodes")

_NODE = {
    "number": whole,
    "host": lambda data: record(Host, _HOST, data, ("name",)),
    "ranks": several(lambda data: record(Rank, _RANK, data, _NAMES_OF_RANK)),
}

_COMMAND = {
    "node": whole,
    "argv": several(late_text),
    "ranks": several(lambda data: record(Rank, _RANK, data, _NAMES_OF_RANK)),
    "env": variables,
    "env_defaults": variables,
    "cwd": text,
    "fork_server": flag,
    "python_index": optional(whole),
    "signal_group": flag,
    "launcher": text,
    "files": _files,
    "unset_pattern": text,
}

_RANK_COMMAND = {
    "argv": texts,
    "python_index": optional(whole),
    "args_index": optional(whole),
    "signal_group": flag,
    "tasks": flag,
}

_ENVIRONMENT = {
    "env": variables,
    "env_defaults": variables,
    "ranks": several(variables),
    "unset_pattern": text,
    "restored_pattern": text,
}


def _rank_command(data: Any) -> RankCommand | None:
    found: RankCommand | None = optional(
        lambda data: record(RankCommand, _RANK_COMMAND, data, ("argv", "python_index", "args_index"))
    )(data)
    return found


_ROLE = {
    "name": text,
    "job": lambda data: job_from_json(data),
    **dict.fromkeys(("first_node", "nodes", "first_rank", "ranks"), whole),
    "main": flag,
    "rank_command": _rank_command,
    "external_rendezvous": flag,
}

_PLAN = {
    "job": lambda data: job_from_json(data),
    "nodes": several(lambda data: record(Node, _NODE, data, Node._fields)),
    "commands": several(lambda data: record(Command, _COMMAND, data, ("node", "argv", "ranks", "cwd"))),
    "environments": several(lambda data: record(NodeEnvironment, _ENVIRONMENT, data, ("env", "env_defaults", "ranks"))),
    "rank_command": _rank_command,
    "external_rendezvous": flag,
    "spares": several(lambda data: record(Host, _HOST, data, ("name",))),
    "roles": several(lambda data: record(Role, _ROLE, data, Role._fields[:6])),
}


_FAILURE = {
    "kind": one_of(FailureKind),
    "when": number,
    "frames": texts,
    "proven": flag,
    "blames": several(whole),
    **dict.fromkeys(("summary", "place", "own_before"), text),
}

_LEFTOVER = {"process": text, "pid": whole, "state": text, "gpu": flag, "killed": flag}

_LOST = {"node": whole, "why": text}

_PROBLEM = {
    "kind": one_of(ProblemKind),
    "hosts": texts,
    **dict.fromkeys(("python", "version", "needed", "torch", "module", "name", "text"), text),
    **dict.fromkeys(("rank", "number"), whole),
    **dict.fromkeys(("among_others", "missing", "limit"), flag),
    "code": optional(any_whole),
    "signal": optional(whole),
    "values": several(pair),
}

_STOP = {
    "kind": one_of(StopKind),
    "signal": optional(whole),
    "again": flag,
    "seconds": number,
    "code": optional(any_whole),
    "problems": several(lambda data: problem_from_json(data)),
    "node": optional(whole),
    "early": flag,
    **dict.fromkeys(("by", "log", "cause", "message", "hint"), text),
}

_END = {
    "rank": whole,
    "node": whole,
    "when": number,
    "code": optional(any_whole),
    "signal": optional(whole),
    **dict.fromkeys(("by_muster", "by_launcher", "late"), flag),
    "failure": optional(lambda data: failure_from_json(data)),
    "usage": optional(lambda data: usage_from_json(data)),
    "facts": optional(lambda data: facts_from_json(data)),
    "notes": texts,
}

_SECONDS = ("user", "system", "children_cpu")

_USAGE = {
    **dict.fromkeys(RankUsage._fields, whole),
    **dict.fromkeys(_SECONDS, number),
    **dict.fromkeys(("io_wait", "core_wait"), optional(number)),
    **dict.fromkeys(("step", "steps"), optional(whole)),
}

_CGROUP = {
    "path": text,
    **dict.fromkeys(("limit", "used", "peak"), whole),
    **dict.fromkeys(("kills", "hits"), optional(whole)),
}

_SPACE = {"path": text, "size": whole, "free": whole}

_LIMIT = {"name": text, "soft": optional(whole), "hard": optional(whole)}

_FACTS = {
    "pid": whole,
    "cgroups": several(lambda data: record(MemoryCgroup, _CGROUP, data, ("path",))),
    "machine_kills": optional(whole),
    "machine_memory": several(whole),
    "kernel_log": flag,
    "kernel": texts,
    "limits": several(lambda data: record(ResourceLimit, _LIMIT, data, ResourceLimit._fields)),
    "full": several(lambda data: record(DiskSpace, _SPACE, data, DiskSpace._fields)),
    "shm": optional(lambda data: record(DiskSpace, _SPACE, data, DiskSpace._fields)),
}

_UNLOGGED = {"attempt": whole, "rank": whole, "stream": text, "missing": whole, "why": text}

_REPEATED = {"rank": whole, "before": whole, "exception": text, "place": text}

_REPLACED = {"node": whole, **dict.fromkeys(("host", "by", "why"), text), "attempt": optional(whole)}


def replaced_from_json(data: Any) -> Replaced:
    """Parse which host was replaced by a spare. Raises `Malformed`."""
    found: Replaced = record(Replaced, _REPLACED, data, ("node", "host", "by", "why"))
    return found


_ROLE_RANKS = {"name": text, "first": whole, "ranks": whole}

_OUTCOME = {
    "state": lambda value: _ended(one_of(RunState)("error" if value == _ERROR_BEFORE else value)),
    "code": any_whole,
    "duration": number,
    "attempt": whole,
    "reason": text,
    "stopped": optional(lambda data: record(StopReason, _STOP, data, ("kind",))),
    "root_cause": optional(lambda data: record(RankExit, _END, data, ("rank", "node", "when"))),
    "exits": several(lambda data: record(RankExit, _END, data, ("rank", "node", "when"))),
    "leftovers": several(lambda data: _leftover_or_words(data)),
    "lost": several(lambda data: record(LostNode, _LOST, data, ("node", "why"))),
    "unlogged": several(lambda data: record(Unlogged, _UNLOGGED, data, tuple(_UNLOGGED))),
    "replaced": several(replaced_from_json),
    "roles": several(lambda data: record(RoleRanks, _ROLE_RANKS, data, RoleRanks._fields)),
    "repeated": optional(lambda data: record(Repeated, _REPEATED, data, ("rank", "before"))),
}


TRANSPORTS_OF_JOBS = ("local", "ssh", "step")


def job_from_json(data: Any) -> Job:
    """Parse what `as_json(job)` returned, ignoring unknown keys of newer versions. Raises `Malformed`.

    Earlier versions wrote the scheduler as the place.
    """
    job: Job = record(Job, _JOB, data, ("program", "launcher", "python", "python_source", "cwd"))
    if not job.program.argv:
        raise Malformed("`program`: `argv` is empty")
    return job if job.transport in TRANSPORTS_OF_JOBS else job._replace(transport="step", scheduler=job.transport)


def plan_from_json(data: Any) -> Plan:
    """Parse what `as_json(plan)` returned, ignoring unknown keys of newer versions. Raises `Malformed`."""
    plan: Plan = record(Plan, _PLAN, data, ("job", "nodes", "commands"))
    if [node.number for node in plan.nodes] != list(range(len(plan.nodes))) or not plan.nodes:
        raise Malformed("`nodes` are not numbered from 0")
    return plan


def outcome_from_json(data: Any) -> RunResult:
    """Parse what `outcome_as_json` returned, ignoring unknown keys of newer versions. Raises `Malformed`.

    Older versions wrote only sentences for the stop reason and for leftover processes.
    """
    fields = checked(by_present_keys(data, FORMER_KEYS[RunResult]), _OUTCOME, ("state", "code", "duration"))
    words = fields.pop("reason", "")
    if words and fields.get("stopped") is None:
        message, _, hint = words.partition("\nhint: ")
        fields["stopped"] = StopReason(StopKind.OTHER, message=message, hint=hint)
    left = fields.get("leftovers", ())
    unseen = tuple(LostNode(0, words[len(_UNSEEN) :]) for words in left if str(words).startswith(_UNSEEN))
    fields["leftovers"] = tuple(found for found in left if isinstance(found, Leftover))
    fields["lost"] = fields.get("lost", ()) + unseen
    return RunResult(**fields)


_UNSEEN = "not seen to end: "
"""How older versions began the sentence about a lost node."""


def _leftover_or_words(value: Any) -> Leftover | str:
    """Parse a leftover process; older versions wrote a sentence about it, or about a lost node."""
    if not isinstance(value, str):
        return leftover_from_json(value)
    words = text(value)
    how, _, process = words.partition(": ")
    return words if words.startswith(_UNSEEN) else Leftover(process, killed=how == "ended")


_ERROR_BEFORE = "broken"
"""The state `error` in the outcome of a run of an older version."""


def _ended(state: RunState) -> RunState:
    if not state.ended:
        raise Malformed(f"{state} is not a final state of a run")
    return state


def failure_from_json(data: Any) -> Failure:
    """Parse the failure of a rank. Raises `Malformed`."""
    failure: Failure = record(Failure, _FAILURE, data, ("kind", "when"))
    return failure


def usage_from_json(data: Any) -> RankUsage:
    """Parse what a rank has used. Raises `Malformed`."""
    usage: RankUsage = record(RankUsage, _USAGE, data, ())
    return usage


def facts_from_json(data: Any) -> ExitFacts:
    """Parse the facts about the failure of a rank. Raises `Malformed`."""
    facts: ExitFacts = record(ExitFacts, _FACTS, data, ())
    return facts


def leftover_from_json(data: Any) -> Leftover:
    """Parse a leftover process, from a file or an agent. Raises `Malformed`.

    An older version wrote it as a sentence.
    """
    if isinstance(data, str):
        return Leftover(text(data))
    found: Leftover = record(Leftover, _LEFTOVER, data, ("process",))
    return found


def problem_from_json(data: Any) -> Problem:
    """Parse why agents could not start their ranks. Raises `Malformed`."""
    problem: Problem = record(Problem, _PROBLEM, data, ("kind", "hosts"))
    return problem
