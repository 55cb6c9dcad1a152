"""Paths of muster's files, the same on every machine."""

from __future__ import annotations

import os
from collections.abc import Mapping


def user_home(env: Mapping[str, str]) -> str:
    """Return the user's home directory; from the password database if HOME is not set, as with cron and `env -i`."""
    if env.get("HOME"):
        return env["HOME"]
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "/"


def expanded(path: str, env: Mapping[str, str]) -> str:
    """Expand `~` in a path that no shell has expanded: from environment variables and muster.toml."""
    if path == "~" or path.startswith("~/"):
        return os.path.join(user_home(env), path[2:])
    return os.path.expanduser(path)


def muster_home(env: Mapping[str, str]) -> str:
    """Return muster's directory: MUSTER_HOME, or `.muster` in the user's home; absolute.

    Raises OSError for a relative MUSTER_HOME if the current directory is gone.
    """
    named = env.get("MUSTER_HOME")
    path = expanded(named, env) if named else os.path.join(user_home(env), ".muster")
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)


def rank_file(folder: str, rank: int, kind: str) -> str:
    """Return a rank's file in the directory of an attempt.

    `kind` is `out`, `err`, `stack`, `error.json`, `exception.json`, `result`, `progress` or `imports`.
    """
    return os.path.join(folder, f"rank_{rank:05d}.{kind}")


def resources_name(node: int) -> str:
    """Return the name of the file with the resources of a node's ranks over time, in the directory of an attempt."""
    return f"resources_{node}.json"
