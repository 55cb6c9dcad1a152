"""Which packages the last run of a script imported, so that the next one may import them once, before ranks are forked.

A rank wrote them to its file `imports` when its script called `init_process_group` (`agent/hook/torch_server.py`): a
line of JSON, and a line with the packages.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

from muster.core.json_checks import Malformed, checked, text, texts_by_name
from muster.core.model import Job, LastImports
from muster.errors import InvalidRequest
from muster.protocol.paths import rank_file
from muster.rundir.finding import why_refused
from muster.rundir.run import Run
from muster.rundir.store import Store, new_id

_MOST_RUNS, _MOST_BYTES = 20, 1 << 20
"""How many runs of scripts of that name are looked at, and the maximum size of the file."""

_FIELDS = {"program": text, "packages": text, "unfit": texts_by_name}


def program_of(job: Job) -> str:
    """Return what identifies the script or module of a job; empty if nothing is imported for it in advance."""
    if job.launcher != "fork" or job.program.source:
        return ""
    if job.program.kind == "script":
        return os.path.realpath(os.path.join(job.cwd, job.program.argv[0]))
    return f"-m {job.program.argv[0]} in {os.path.realpath(job.cwd)}" if job.program.kind == "module" else ""


def last_imports(store: Store, job: Job) -> LastImports | None:
    """Return what the last run of this job's program imported, or nothing if that is unknown; None for no program."""
    program = program_of(job)
    if not program:
        return None
    folder = store.root / "runs"
    ending = new_id(job.program.title, "", "")
    try:
        names = [name for name in os.listdir(folder) if name.endswith(ending)]
    except OSError:
        names = []
    for name in sorted(names, reverse=True)[:_MOST_RUNS]:
        if not why_refused(folder / name, own=True):
            found = _of(Run(folder / name), program)
            if found is not None:
                return found
    return LastImports(program)


def _of(run: Run, program: str) -> LastImports | None:
    """Return what rank 0 of the last attempt with a record imported, if the run was one of this program."""
    for attempt in reversed(run.attempts()):
        try:
            with run.open_file(os.path.relpath(rank_file(f"attempt_{attempt}", 0, "imports"))) as file:
                first, _, second = file.read(_MOST_BYTES).decode(errors="replace").partition("\n")
            data: dict[str, Any] = checked(json.loads(first), _FIELDS, tuple(_FIELDS))
        except (OSError, InvalidRequest, Malformed, ValueError, RecursionError):
            continue
        names = tuple(name for name in second.split() if re.fullmatch(r"\w{1,100}", name))
        if data["program"] != program or not second.endswith("\n"):
            return None
        return LastImports(program, run.id, data["packages"], names, data["unfit"])
    return None
