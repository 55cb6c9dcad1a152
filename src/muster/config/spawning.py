"""Detection of scripts that start ranks by themselves, with `multiprocessing.spawn`."""

from __future__ import annotations

import re
from pathlib import Path

from muster.core.model import Job


def spawn_warnings(job: Job) -> list[str]:
    """Return warnings about likely mistakes."""
    if job.launcher == "spawn" or not job.program.path:
        return []
    try:
        text = Path(job.cwd, job.program.path).read_text(errors="replace")
    except OSError:  # the script is on the machine where the run was started
        return []
    found = _CALLS_SPAWN.search(text)
    if found is None:
        return []
    what = f"{job.program.path} calls `{found[0]}…)`, so each rank starts a separate process group of its own"
    return [f"warning: {what}; use `--launcher spawn` to start it once per node"]


_CALLS_SPAWN = re.compile(r"\b(?:mp|multiprocessing)\.(?:spawn|start_processes)\(")


_SPAWNS = re.compile(_CALLS_SPAWN.pattern + r"|\bspawn\(|\bnotebook_launcher\(")
"""Pattern of a script that spawns its ranks by itself."""


def calls_spawn(path: str) -> bool:
    """Return True if the script at this path starts its ranks by itself."""
    with open(path, errors="replace") as file:
        return _SPAWNS.search(file.read()) is not None
