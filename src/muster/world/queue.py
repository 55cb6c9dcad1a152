"""What Slurm says of jobs, asked with care: an answer that did not come means nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from muster.schedulers import slurm

_WITHIN = 15.0


def look(jobs: Sequence[str]) -> dict[str, slurm.Seen] | None:
    """The jobs that Slurm knows, by number; None when it does not answer."""
    try:
        done = subprocess.run(slurm.queue(jobs), capture_output=True, text=True, timeout=_WITHIN)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode == 0:
        return slurm.queued(done.stdout)
    return {} if "Invalid job id" in done.stderr else None
