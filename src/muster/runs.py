"""The run directory: its layout, in one place. Everything that is told about a run comes from these files.

$MUSTER_HOME/runs/<id>/         mode 0700
    job.json  plan.json  events.jsonl  outcome.json
    attempt_0/rank_00003.out  .err  .stack  .error.json
    node_<host>/agent.log  times.jsonl  ended.json
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muster.agent import system
from muster.agent.follow import log_path
from muster.errors import Impossible
from muster.model import Outcome, outcome_from_json


class Run:
    """One run directory."""

    def __init__(self, path: Path):
        self.path = path
        self.id = path.name

    def write(self, name: str, data: Mapping[str, Any]) -> None:
        """Write one of the JSON files, whole or not at all."""
        text = json.dumps(data, indent=1)
        part = self.path / (name + ".part")
        part.write_text(text + "\n")
        part.replace(self.path / name)

    def read(self, name: str) -> dict[str, Any] | None:
        """Read one of the JSON files; None when it is not there or is not whole."""
        try:
            data = json.loads((self.path / name).read_text())
        except (OSError, ValueError):
            return None
        return data if isinstance(data, dict) else None

    @property
    def job(self) -> dict[str, Any]:
        """What was asked for, and by which process on which machine."""
        return self.read("job.json") or {}

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of its nodes, by number; none when there is no plan yet."""
        plan = self.read("plan.json")
        return () if plan is None else tuple(node["host"]["name"] for node in plan["nodes"])

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, if that is known."""
        data = self.read("outcome.json")
        return None if data is None else outcome_from_json(data)

    def events(self) -> list[dict[str, Any]]:
        """What happened, in order; a last line that is not whole is left out."""
        found = []
        try:
            for line in (self.path / "events.jsonl").read_text().splitlines():
                try:
                    found.append(json.loads(line))
                except ValueError:
                    pass
        except OSError:
            pass
        return found

    def attempts(self) -> list[int]:
        """The numbers of the attempts that left a folder."""
        return sorted(int(path.name[8:]) for path in self.path.glob("attempt_*") if path.name[8:].isdigit())

    def log(self, attempt: int, rank: int, stream: str) -> Path:
        """The file of one rank: `out`, `err` or `stack`."""
        return Path(log_path(str(self.path / f"attempt_{attempt}"), rank, stream))

    def ranks(self, attempt: int) -> list[int]:
        """The ranks that left a log in an attempt."""
        names = (path.name for path in (self.path / f"attempt_{attempt}").glob("rank_*.out"))
        return sorted(int(name[5:10]) for name in names if name[5:10].isdigit())


def home(env: Mapping[str, str]) -> Path:
    """The folder in which muster keeps its runs."""
    return Path(env.get("MUSTER_HOME") or os.path.join(env.get("HOME") or "/", ".muster"))


def new_id(title: str, stamp: str, random: str) -> str:
    """Make a run's id from the time, something random and the name of the script: it sorts, and people know it."""
    short = re.sub(r"[^A-Za-z0-9_.]+", "-", title).strip("-.")[:24]
    return "-".join(filter(None, (stamp, random, short)))


def create(root: Path, run_id: str) -> Run:
    """Make a run directory; raises `Impossible` with the reason when that cannot be."""
    path = root / "runs" / run_id
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
        system.try_to_write(str(path))
    except OSError as error:
        _remove(path)
        reason = error.strerror or str(error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = ("free some space there, or " if full else "") + "choose another place by `--run-dir` or MUSTER_HOME"
        raise Impossible(f"cannot write the run directory {path}: {reason}", hint) from None
    return Run(path)


def _remove(path: Path) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)


def every(root: Path) -> list[Run]:
    """All runs, the oldest first."""
    try:
        paths = [path for path in (root / "runs").iterdir() if (path / "job.json").exists()]
    except OSError:
        return []
    return [Run(path) for path in sorted(paths)]


def find(root: Path, which: str) -> Run:
    """The run with this id, name or unique beginning of an id; `last` is the newest."""
    runs = every(root)
    if not runs:
        raise Impossible(f"there is no run in {root}", "start one by `muster run`, or set MUSTER_HOME")
    if which == "last":
        return runs[-1]
    exact = [run for run in runs if run.id == which]
    named = [run for run in runs if run.job.get("name") == which]
    begun = [run for run in runs if run.id.startswith(which)]
    found = exact or named[-1:] or begun
    if len(found) == 1:
        return found[0]
    if found:
        raise Impossible(f"`{which}` fits {len(found)} runs: {_some(found)}", "give more of the id")
    raise Impossible(f"there is no run `{which}`", f"the newest are {_some(runs[-3:][::-1])}; `muster ps -a` lists all")


def _some(runs: list[Run]) -> str:
    names = [run.id for run in runs[:4]]
    return ", ".join(names) + (", …" if len(runs) > 4 else "")


def remove(run: Run) -> None:
    """Delete a run directory."""
    _remove(run.path)
