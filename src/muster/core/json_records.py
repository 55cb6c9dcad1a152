"""Parsing of JSON records: each field is checked before it is used.

Run directories may be damaged, and files from a host may be hostile. Each check takes a value of unknown type and
returns it with a known type, or raises `Malformed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar

from muster.core.inspection import (
    CollectiveRecord,
    CollectiveTimes,
    GroupState,
    Inspection,
    Snapshot,
    SnapshotReason,
    ThreadState,
)
from muster.core.model import (
    Command,
    Host,
    Job,
    Late,
    Node,
    NodeEnvironment,
    Plan,
    Program,
    Rank,
    RankCommand,
    Template,
    TerminalSize,
    Text,
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
    RunResult,
    RunState,
    StopKind,
    StopReason,
    Unlogged,
)

Check = Callable[[Any], Any]

Kind = TypeVar("Kind", bound=Enum)


class Malformed(ValueError):
    """A value has the wrong type or range; the message says which, and what was expected."""


NOT_UNDERSTOOD = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError)
"""Errors caused by a message with wrong fields; `Malformed` is a ValueError."""


def text(value: Any) -> str:
    """Check a string without NUL, which no argument or path may contain."""
    if not isinstance(value, str) or "\0" in value:
        raise Malformed(f"{_short(value)} is not a string")
    return value


def whole(value: Any) -> int:
    """Check a non-negative integer; not a bool, which is an int in Python."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise Malformed(f"{_short(value)} is not an integer from 0")
    return value


def number(value: Any) -> float:
    """Check a finite number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < 1e18:
        raise Malformed(f"{_short(value)} is not a number")
    return value


def flag(value: Any) -> bool:
    """Check a bool."""
    if not isinstance(value, bool):
        raise Malformed(f"{_short(value)} is not a boolean")
    return value


def optional(check: Check) -> Check:
    """Return a check for None, or what `check` accepts."""
    return lambda value: None if value is None else check(value)


def several(check: Check) -> Check:
    """Return a check for a list of what `check` accepts, which returns a tuple."""

    def checked(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise Malformed(f"{_short(value)} is not a list")
        return tuple(map(check, value))

    return checked


def texts(value: Any) -> tuple[str, ...]:
    """Check a list of strings."""
    found: tuple[str, ...] = several(text)(value)
    return found


def table(value: Any) -> dict[str, Any]:
    """Check a JSON object."""
    if not isinstance(value, dict):
        raise Malformed(f"{_short(value)} is not an object")
    return value


def texts_by_name(value: Any) -> dict[str, str]:
    """Check a JSON object whose values are strings."""
    return {text(name): text(item) for name, item in table(value).items()}


_LATE = {late.key: late for late in Late}


def late_text(value: Any) -> Text:
    """Parse a text that may contain late values, as written by `as_json`."""
    return Template(*map(_part, value)) if isinstance(value, list) else _part(value)


def _part(value: Any) -> str | Late:
    if isinstance(value, dict):
        key = text(value.get("late"))
        if key not in _LATE:
            raise Malformed(f"{_short(value)} is not a late value")
        return _LATE[key]
    return text(value)


def variables(value: Any) -> dict[str, Text]:
    """Check a JSON object whose values are such texts."""
    return {text(name): late_text(item) for name, item in table(value).items()}


def _files(value: Any) -> tuple[TextFile, ...]:
    """Parse the files of a command; earlier versions wrote an object {name: text}."""
    if isinstance(value, dict):
        return tuple(TextFile(name, item) for name, item in texts_by_name(value).items())
    files: tuple[TextFile, ...] = several(lambda item: _record(TextFile, _FILE, item, TextFile._fields))(value)
    return files


_FILE = {"path": late_text, "text": late_text}


def checked(value: Any, checks: Mapping[str, Check], required: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the fields of a JSON object that `checks` names; others, perhaps from a newer muster, are ignored.

    Raises `Malformed` for missing `required` fields and for invalid values.
    """
    found = table(value)
    missing = [name for name in required if name not in found]
    if missing:
        raise Malformed(f"`{missing[0]}` is missing")
    result = {}
    for name, check in checks.items():
        if name in found:
            try:
                result[name] = check(found[name])
            except Malformed as error:
                raise Malformed(f"`{name}`: {error}") from None
    return result


def by_present_keys(value: Any, former: Mapping[str, str]) -> Any:
    """A JSON object in which keys of the version before have their present names; `former` has those by these.

    Anything else is left as it is, for `checked`.
    """
    if not isinstance(value, dict) or not any(old in value for old in former.values()):
        return value
    found = dict(value)
    for name, old in former.items():
        if old in found:
            told = found.pop(old)
            found.setdefault(name, told)
    return found


FORMER_KEYS: Mapping[type, Mapping[str, str]] = {
    Job: {"transport": "place", "script_spawns": "spawns", "python_source": "python_why"},
    Program: {"source": "text"},
    Command: {
        "env_defaults": "defaults",
        "fork_server": "forks",
        "python_index": "python_at",
        "signal_group": "group",
        "unset_pattern": "unset",
    },
    RankCommand: {"python_index": "python_at", "args_index": "args_at", "signal_group": "group"},
    NodeEnvironment: {"env_defaults": "defaults", "unset_pattern": "unset", "restored_pattern": "restored"},
    Plan: {"rank_command": "guests", "external_rendezvous": "own_meeting"},
    RankExit: {"by_muster": "by_us"},
    RunResult: {"root_cause": "first", "exits": "ends", "leftovers": "left"},
}
"""How versions before protocol 5 have called fields in plan.json, job.json and outcome.json, and in messages."""


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:40]}…"


# ---- the records of model.py ----------------------------------------------------------------------------------------


def _any_whole(value: Any) -> int:
    """Check an exit code: Python's own may be negative."""
    return value if isinstance(value, int) and not isinstance(value, bool) and -(1 << 31) <= value < 0 else whole(value)


def cells(value: Any) -> int:
    """Check a number of rows or columns, limited by the kernel."""
    if whole(value) >= 1 << 16:
        raise Malformed(f"{value} is not the size of a terminal")
    return int(value)


_PROGRAM = {"kind": text, "argv": texts, "source": text}

_TERMINAL = {"rows": cells, "columns": cells, "term": text}

_JOB = {
    "program": lambda data: _record(Program, _PROGRAM, data, ("kind", "argv")),
    "launcher": text,
    "python": text,
    "python_source": text,
    "cwd": text,
    "transport": text,
    "name": text,
    "env": texts_by_name,
    "setup": texts,
    "preload": texts,
    "wrap": texts,
    "binding": text,
    "stdin": optional(whole),
    "grace": number,
    "timeout": optional(number),
    "hang_timeout": number,
    "on_hang": text,
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
    "terminal": optional(lambda data: _record(TerminalSize, _TERMINAL, data, ("rows", "columns"))),
    "log_dir": text,
    "lease": number,
    "python_named": flag,
    **dict.fromkeys(("scheduler", "runtime", "runtime_value"), text),
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
    "host": lambda data: _record(Host, _HOST, data, ("name",)),
    "ranks": several(lambda data: _record(Rank, _RANK, data, _NAMES_OF_RANK)),
}

_COMMAND = {
    "node": whole,
    "argv": several(late_text),
    "ranks": several(lambda data: _record(Rank, _RANK, data, _NAMES_OF_RANK)),
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

_PLAN = {
    "job": lambda data: job_from_json(data),
    "nodes": several(lambda data: _record(Node, _NODE, data, Node._fields)),
    "commands": several(lambda data: _record(Command, _COMMAND, data, ("node", "argv", "ranks", "cwd"))),
    "environments": several(
        lambda data: _record(NodeEnvironment, _ENVIRONMENT, data, ("env", "env_defaults", "ranks"))
    ),
    "rank_command": optional(
        lambda data: _record(RankCommand, _RANK_COMMAND, data, ("argv", "python_index", "args_index"))
    ),
    "external_rendezvous": flag,
    "spares": several(lambda data: _record(Host, _HOST, data, ("name",))),
}


def one_of(kind: type[Kind]) -> Callable[[Any], Kind]:
    """Return a check for the value of a member of this enumeration."""

    def checked(value: Any) -> Kind:
        try:
            return kind(text(value))
        except ValueError:
            raise Malformed(f"{_short(value)} is not one of {', '.join(map(str, kind))}") from None

    return checked


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
    "code": optional(_any_whole),
    "signal": optional(whole),
    "values": several(lambda pair: _pair(pair)),
}

_STOP = {
    "kind": one_of(StopKind),
    "signal": optional(whole),
    "again": flag,
    "seconds": number,
    "code": optional(_any_whole),
    "problems": several(lambda data: problem_from_json(data)),
    "node": optional(whole),
    "early": flag,
    **dict.fromkeys(("by", "log", "cause", "message", "hint"), text),
}

_END = {
    "rank": whole,
    "node": whole,
    "when": number,
    "code": optional(_any_whole),
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
    "cgroups": several(lambda data: _record(MemoryCgroup, _CGROUP, data, ("path",))),
    "machine_kills": optional(whole),
    "machine_memory": several(whole),
    "kernel_log": flag,
    "kernel": texts,
    "limits": several(lambda data: _record(ResourceLimit, _LIMIT, data, ResourceLimit._fields)),
    "full": several(lambda data: _record(DiskSpace, _SPACE, data, DiskSpace._fields)),
    "shm": optional(lambda data: _record(DiskSpace, _SPACE, data, DiskSpace._fields)),
}

_UNLOGGED = {"attempt": whole, "rank": whole, "stream": text, "missing": whole, "why": text}

_REPEATED = {"rank": whole, "before": whole, "exception": text, "place": text}

_REPLACED = {"node": whole, **dict.fromkeys(("host", "by", "why"), text), "attempt": optional(whole)}


def replaced_from_json(data: Any) -> Replaced:
    """Parse which host was replaced by a spare. Raises `Malformed`."""
    found: Replaced = _record(Replaced, _REPLACED, data, ("node", "host", "by", "why"))
    return found


_OUTCOME = {
    "state": lambda value: _ended(one_of(RunState)("error" if value == _ERROR_BEFORE else value)),
    "code": _any_whole,
    "duration": number,
    "attempt": whole,
    "reason": text,
    "stopped": optional(lambda data: _record(StopReason, _STOP, data, ("kind",))),
    "root_cause": optional(lambda data: _record(RankExit, _END, data, ("rank", "node", "when"))),
    "exits": several(lambda data: _record(RankExit, _END, data, ("rank", "node", "when"))),
    "leftovers": several(lambda data: _leftover_or_words(data)),
    "lost": several(lambda data: _record(LostNode, _LOST, data, ("node", "why"))),
    "unlogged": several(lambda data: _record(Unlogged, _UNLOGGED, data, tuple(_UNLOGGED))),
    "replaced": several(replaced_from_json),
    "repeated": optional(lambda data: _record(Repeated, _REPEATED, data, ("rank", "before"))),
}


TRANSPORTS_OF_JOBS = ("local", "ssh", "step")


def job_from_json(data: Any) -> Job:
    """Parse what `as_json(job)` returned, ignoring unknown keys of newer versions. Raises `Malformed`.

    Earlier versions wrote the scheduler as the place.
    """
    job: Job = _record(Job, _JOB, data, ("program", "launcher", "python", "python_source", "cwd"))
    if not job.program.argv:
        raise Malformed("`program`: `argv` is empty")
    return job if job.transport in TRANSPORTS_OF_JOBS else job._replace(transport="step", scheduler=job.transport)


def plan_from_json(data: Any) -> Plan:
    """Parse what `as_json(plan)` returned, ignoring unknown keys of newer versions. Raises `Malformed`."""
    plan: Plan = _record(Plan, _PLAN, data, ("job", "nodes", "commands"))
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
    failure: Failure = _record(Failure, _FAILURE, data, ("kind", "when"))
    return failure


def usage_from_json(data: Any) -> RankUsage:
    """Parse what a rank has used. Raises `Malformed`."""
    usage: RankUsage = _record(RankUsage, _USAGE, data, ())
    return usage


def facts_from_json(data: Any) -> ExitFacts:
    """Parse the facts about the failure of a rank. Raises `Malformed`."""
    facts: ExitFacts = _record(ExitFacts, _FACTS, data, ())
    return facts


def leftover_from_json(data: Any) -> Leftover:
    """Parse a leftover process, from a file or an agent. Raises `Malformed`.

    An older version wrote it as a sentence.
    """
    if isinstance(data, str):
        return Leftover(text(data))
    found: Leftover = _record(Leftover, _LEFTOVER, data, ("process",))
    return found


def problem_from_json(data: Any) -> Problem:
    """Parse why agents could not start their ranks. Raises `Malformed`."""
    problem: Problem = _record(Problem, _PROBLEM, data, ("kind", "hosts"))
    return problem


# ---- the records of inspection.py -----------------------------------------------------------------------------------


_COLLECTIVE = {
    **dict.fromkeys(("group", "op"), text),
    "seq": whole,
    "sizes": several(several(whole)),
    "dtypes": texts,
    "created": number,
    **dict.fromkeys(("done", "p2p"), flag),
}

_GROUP = {
    **dict.fromkeys(("group", "description"), text),
    **dict.fromkeys(("enqueued", "completed"), whole),
    "ranks": several(whole),
}

_THREAD = {
    **dict.fromkeys(("pid", "holder"), whole),
    **dict.fromkeys(("name", "state", "call", "target"), text),
    "cpu": number,
}

_THREADS = several(lambda data: _record(ThreadState, _THREAD, data, ("pid",)))

_INSPECTION = {
    **dict.fromkeys(("rank", "node", "pid"), whole),
    "stacks": text,
    **dict.fromkeys(("recorder", "exiting"), flag),
    "collectives": several(lambda data: _record(CollectiveRecord, _COLLECTIVE, data, ("group", "seq", "op"))),
    "groups": several(lambda data: _record(GroupState, _GROUP, data, ("group",))),
    "waits": texts,
    **dict.fromkeys(("threads", "children"), _THREADS),
    "env": several(lambda data: _pair(data)),
}

_SNAPSHOT = {
    "when": number,
    "reason": one_of(SnapshotReason),
    "attempt": whole,
    "inspections": several(lambda data: inspection_from_json(data)),
    "silent": several(whole),
    "clock_offsets": several(number),
}

_TIMES = {"rank": whole, "group": text, "seqs": several(whole), "created": several(number)}


def inspection_from_json(data: Any) -> Inspection:
    """Parse what one rank was doing, from a file or an agent. Raises `Malformed`."""
    found: Inspection = _record(Inspection, _INSPECTION, data, ("rank", "node"))
    return found


def snapshot_from_json(data: Any) -> Snapshot:
    """Parse what `as_json(snapshot)` returned, ignoring unknown keys of newer versions. Raises `Malformed`."""
    found: Snapshot = _record(Snapshot, _SNAPSHOT, data, ("when", "reason", "attempt"))
    return found


def collective_times_from_json(data: Any) -> CollectiveTimes:
    """Parse when a rank called its last collectives. Raises `Malformed`."""
    found: CollectiveTimes = _record(CollectiveTimes, _TIMES, data, ("rank", "group"))
    if len(found.seqs) != len(found.created):
        raise Malformed("`created` has another length than `seqs`")
    return found


def _pair(value: Any) -> tuple[str, str]:
    found = texts(value)
    if len(found) != 2:
        raise Malformed(f"{_short(value)} is not a pair")
    return found[0], found[1]


def _record(kind: Any, checks: Mapping[str, Check], data: Any, required: tuple[str, ...]) -> Any:
    return kind(**checked(by_present_keys(data, FORMER_KEYS.get(kind, {})), checks, required))
