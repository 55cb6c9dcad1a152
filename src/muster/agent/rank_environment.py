"""Environments according to the plan: its variables over the inherited ones, and values that are known only late."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Optional

Late = Mapping[str, Optional[str]]
"""Values by name that were not known to the plan; None for one that does not exist."""


def filled(text: Any, late: Late) -> str | None:
    """Return a text of the plan with late values filled in; None if one of them is None.

    A known text is a string, a late value is `{"late": NAME}`, and a list mixes both. Raises KeyError for a value that
    is not known.
    """
    if isinstance(text, str):
        return text
    parts = [text] if isinstance(text, dict) else text
    found = [part if isinstance(part, str) else late[part["late"]] for part in parts]
    return None if None in found else "".join(map(str, found))


def word(text: Any, late: Late) -> str:
    """Return a text as `filled` does; raises KeyError if it has no value."""
    found = filled(text, late)
    if found is None:
        raise KeyError(f"{text} has no value")
    return found


def inherited(env: Mapping[str, str], unset: str) -> dict[str, str]:
    """Return an environment without the variables that match `unset`."""
    return {name: value for name, value in env.items() if not (unset and re.fullmatch(unset, name))}


def settings(variables: Mapping[str, Any], late: Late, early: bool = False) -> dict[str, str]:
    """Return the variables that have a value. `early`: omit those whose value is not known yet."""
    found = {}
    for name, text in variables.items():
        if early and not _known(text, late):
            continue
        value = filled(text, late)
        if value is not None:
            found[name] = value
    return found


def _known(text: Any, late: Late) -> bool:
    parts = [text] if isinstance(text, dict) else text
    return isinstance(text, str) or all(isinstance(part, str) or part["late"] in late for part in parts)


def environment(
    env: Mapping[str, str],
    plan: Mapping[str, Any],
    late: Late,
    own: Mapping[str, Any] | None = None,
    early: bool = False,
) -> dict[str, str]:
    """Return the environment of a process that inherits `env`. `own` are the variables of one rank."""
    found = inherited(env, plan["unset_pattern"])
    for name, value in settings(plan["env_defaults"], late, early).items():
        found.setdefault(name, value)
    found.update(settings(plan["env"], late, early))
    found.update(settings(own or {}, late, early))
    return found
