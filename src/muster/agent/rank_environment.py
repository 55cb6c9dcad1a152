"""Carry out what a plan says of an environment: variables over those that are inherited, and values that come late."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Optional

Late = Mapping[str, Optional[str]]
"""Values that were not known when the plan was made, by name; None for one that there is not."""


def filled(text: Any, late: Late) -> str | None:
    """A text of the plan with these values in it; None where one of them is None.

    Text that is known is a string, a late value is `{"late": NAME}`, and both stand in a list where they are mixed.
    Raises KeyError for a value that is not known.
    """
    if isinstance(text, str):
        return text
    parts = [text] if isinstance(text, dict) else text
    found = [part if isinstance(part, str) else late[part["late"]] for part in parts]
    return None if None in found else "".join(map(str, found))


def word(text: Any, late: Late) -> str:
    """The same for a word that must be there."""
    found = filled(text, late)
    if found is None:
        raise KeyError(f"{text} has no value")
    return found


def inherited(env: Mapping[str, str], unset: str) -> dict[str, str]:
    """What is left of an environment."""
    return {name: value for name, value in env.items() if not (unset and re.fullmatch(unset, name))}


def settings(variables: Mapping[str, Any], late: Late, early: bool = False) -> dict[str, str]:
    """The variables that have a value. `early`: without those whose value is not known yet."""
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
    """What a process has that inherits `env`. `own` are the variables of one rank alone."""
    found = inherited(env, plan["unset"])
    for name, value in settings(plan["defaults"], late, early).items():
        found.setdefault(name, value)
    found.update(settings(plan["env"], late, early))
    found.update(settings(own or {}, late, early))
    return found
