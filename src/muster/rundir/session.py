"""What a session keeps in its run directory for the commands that start runs on it (`session.json`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from muster.core.controller_config import RECORD, ControllerConfig, config_as_json, config_from_json
from muster.core.json_checks import Malformed, table, texts_by_name
from muster.core.model import as_json
from muster.rundir.run import Run, Unreadable

SESSION = "session.json"


class SessionRecord(NamedTuple):
    """The options, hosts and connections of a session."""

    options: Mapping[str, Any]
    """The values of the options that belong to the session, by key."""
    config: ControllerConfig
    """The configuration of its controller: addresses and clocks."""
    facts: tuple[Mapping[str, Any], ...]
    """The facts that each host has reported."""
    env: Mapping[str, str] = MappingProxyType({})
    """Variables of the scheduler's job that runs have beside those of a task."""


def write_session(
    run: Run,
    options: Mapping[str, Any],
    config: ControllerConfig,
    facts: Sequence[Mapping[str, Any]],
    env: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write the record of a session that is starting."""
    data = {
        "options": as_json(dict(options)),
        "config": config_as_json(config),
        "facts": [dict(told) for told in facts],
        "env": dict(env),
    }
    run.write(SESSION, data)


def has_begun(run: Run) -> bool:
    """Return whether the session has a controller; one in a scheduler's job has none while that is pending."""
    return run.scheduled is None or run.read(RECORD) is not None


def read_session(run: Run) -> SessionRecord | None:
    """Return the record of a session; None if there is none, as on another machine. Raises `Unreadable`."""
    data = run.read(SESSION)
    if data is None:
        return None
    try:
        options, facts = table(data["options"]), tuple(table(told) for told in data["facts"])
        env = texts_by_name(data.get("env", {}))
        return SessionRecord(options, config_from_json(data["config"], str(run.path)), facts, env)
    except (KeyError, TypeError, Malformed) as error:
        raise Unreadable(run, SESSION, str(error)) from None
