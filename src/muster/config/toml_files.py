"""muster.toml: which files apply, and the options in them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from muster.config import trust
from muster.config.options import RUN, RunOptions
from muster.config.parse import from_table
from muster.config.program import split_words
from muster.errors import InvalidRequest
from muster.linux import processes
from muster.protocol import paths
from muster.schedulers import SCHEDULERS, options_of


class RoleTable(NamedTuple):
    """A table `[roles.NAME]`."""

    command: tuple[str, ...]
    """The script or program with its arguments; empty if it has to be typed."""
    options: dict[str, Any]
    source: str
    """The file and the table, for messages."""


def tables(profile: Any, env: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the options of muster.toml: the profile's, then those of `[run]`; the project's before the user's."""
    places = _configurations(env)
    profiles, general, known = [], [], []
    for path in places:
        data = _toml(path)
        wrong = [name for name in data if name not in ("run", "profile", "roles", *SCHEDULERS)]
        if wrong and not isinstance(data[wrong[0]], dict):
            raise InvalidRequest(f"{path}: key `{wrong[0]}` outside of a table", "put options into the table `[run]`")
        if wrong:
            own = "".join(f", and for options of {options_of(name).program} `[{name}]`" for name in SCHEDULERS)
            raise InvalidRequest(
                f"{path}: unknown table [{wrong[0]}]", f"tables are `[run]`, `[profile.NAME]`, `[roles.NAME]`{own}"
            )
        general += [{f"[{name}]": _of_scheduler(name, data[name], path)} for name in SCHEDULERS if name in data]
        if "run" in data:
            general.append(_from(path, from_table(RUN, data["run"], f"{path} [run]"), env))
        here = data.get("profile", {})
        if not isinstance(here, dict):
            raise InvalidRequest(f"{path}: [profile] is not a table", "put options into a table `[profile.NAME]`")
        known += list(here)
        if profile is not None and profile in here:
            profiles.append(_from(path, from_table(RUN, here[profile], f"{path} [profile.{profile}]"), env))
    if profile is not None and not profiles:
        hint = (
            f"known profiles: {', '.join(known)}" if known else "define it in muster.toml as a table `[profile.NAME]`"
        )
        raise InvalidRequest(f"unknown profile: `{profile}`", hint)
    return profiles + general


def roles(env: Mapping[str, str]) -> dict[str, RoleTable]:
    """Return the tables `[roles.NAME]` of muster.toml; for each name the project's before the user's."""
    found: dict[str, RoleTable] = {}
    for path in _configurations(env):
        tables_here = _toml(path).get("roles", {})
        if not isinstance(tables_here, dict):
            raise InvalidRequest(f"{path}: [roles] is not a table", "put each role into a table `[roles.NAME]`")
        for name, data in tables_here.items():
            source = f"{path} [roles.{name}]"
            if not isinstance(data, dict):
                raise InvalidRequest(f"{source} is not a table", "put each role into a table `[roles.NAME]`")
            command = data.get("command", [])
            words = split_words(command, f"command in {source}") if isinstance(command, str) else command
            if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
                raise InvalidRequest(f"{source}: invalid command", "write it as a text, or as a list of texts")
            options = from_table(RUN, {key: value for key, value in data.items() if key != "command"}, source)
            found.setdefault(name, RoleTable(tuple(words), _from(path, options, env), source))
    return found


def _of_scheduler(name: str, data: Any, path: Path) -> dict[str, Any]:
    """Return the options of a scheduler's own program from the table of its name."""
    if not isinstance(data, dict):
        program = options_of(name).program
        raise InvalidRequest(f"{path}: [{name}] is not a table", f"put options of {program} into a table `[{name}]`")
    return {key.replace("_", "-"): value for key, value in data.items()}


def run_dir(env: Mapping[str, str]) -> str | None:
    """Return `run_dir` from muster.toml, for a command that reads nothing else from there.

    A file with mistakes is reported and skipped, so that a running run remains reachable.
    """
    for path in _configurations(env):
        try:
            table = _toml(path).get("run", {})
            named = {key: table[key] for key in ("run_dir", "run-dir") if isinstance(table, dict) and key in table}
            found = _from(path, from_table(RUN, named, f"{path} [run]"), env)
        except InvalidRequest as error:
            print(f"warning: {error.sentence}", file=sys.stderr)
        else:
            if "run_dir" in found:
                return str(found["run_dir"])
    return None


def _configurations(env: Mapping[str, str]) -> list[Path]:
    """Return the muster.toml files that apply: the nearest one up to the repository or home, and the user's own.

    One that another user could have written is skipped with a warning, since it may contain shell lines (`setup`).
    """
    home, found = Path(paths.user_home(env)), []
    try:
        folder = Path.cwd()  # the resolved path
    except OSError:  # it was deleted; a job that needs it is rejected with an error
        folder = Path("/")
    for parent in (folder, *folder.parents):
        if os.path.isfile(parent / "muster.toml") and _obeyed(parent / "muster.toml", env):
            found.append(parent / "muster.toml")
            break
        if parent == home.resolve() or os.path.exists(parent / ".git"):
            break
    mine = Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "muster" / "muster.toml"
    if os.path.isfile(mine) and mine not in found and _obeyed(mine, env):
        found.append(mine)
    return found


def _obeyed(path: Path, env: Mapping[str, str]) -> bool:
    fault = trust.fault(str(path), env)
    if fault is not None:
        hint = f"if you trust it, {fault.remedy}, or set {trust.ALLOW}={path.parent}"
        print(f"warning: ignoring {path}: {fault.why}\nhint: {hint}", file=sys.stderr, flush=True)
    return fault is None


def _from(path: Path, table: dict[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    """Resolve paths in a muster.toml relative to its directory, wherever below it muster is started."""
    return {
        key: str(path.parent / paths.expanded(value, env)) if key in _PATHS else value for key, value in table.items()
    }


_PATHS = {option.key for option in (RunOptions.hostfile, RunOptions.cwd, RunOptions.run_dir, RunOptions.log_dir)}


def _toml(path: Path) -> dict[str, Any]:
    try:
        import tomllib
    except ImportError:  # before Python 3.11
        import tomli as tomllib  # type: ignore[import-not-found,no-redef,unused-ignore]
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InvalidRequest(
            f"cannot read {path}: {processes.reason(error)}", f"check it with `ls -l {path}`"
        ) from None
    except (ValueError, RecursionError) as error:  # not only TOMLDecodeError: a number may have thousands of digits
        raise InvalidRequest(f"cannot read {path}: {error}", "see https://toml.io, or move the file away") from None
