"""Checks of JSON values: each takes a value of unknown type and returns it with a known type, or raises `Malformed`.

Run directories may be damaged, and files from a host may be hostile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar

from muster.core.model import Command, Job, Late, NodeEnvironment, Plan, Program, RankCommand, Template, Text
from muster.core.results import RankExit, RunResult

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


def any_whole(value: Any) -> int:
    """Check an exit code: Python's own may be negative."""
    return value if isinstance(value, int) and not isinstance(value, bool) and -(1 << 31) <= value < 0 else whole(value)


def cells(value: Any) -> int:
    """Check a number of rows or columns, limited by the kernel."""
    if whole(value) >= 1 << 16:
        raise Malformed(f"{value} is not the size of a terminal")
    return int(value)


def one_of(kind: type[Kind]) -> Callable[[Any], Kind]:
    """Return a check for the value of a member of this enumeration."""

    def checked(value: Any) -> Kind:
        try:
            return kind(text(value))
        except ValueError:
            raise Malformed(f"{_short(value)} is not one of {', '.join(map(str, kind))}") from None

    return checked


def pair(value: Any) -> tuple[str, str]:
    """Check a list of two strings."""
    found = texts(value)
    if len(found) != 2:
        raise Malformed(f"{_short(value)} is not a pair")
    return found[0], found[1]


def record(kind: Any, checks: Mapping[str, Check], data: Any, required: tuple[str, ...]) -> Any:
    """Return a record of this kind from a JSON object, by a check for each field; see `checked`. Raises `Malformed`."""
    return kind(**checked(by_present_keys(data, FORMER_KEYS.get(kind, {})), checks, required))
