"""How far a run is by its run directory: what its ranks reported by `muster.progress`."""

from __future__ import annotations

from muster.core.progress import Progress, least
from muster.core.results import RunResult
from muster.protocol.progress_file import reported_step
from muster.rundir.run import Run


def progress_at_end(outcome: RunResult) -> Progress | None:
    """Return how far a run was when it ended; None if its ranks reported nothing."""
    used = [end.usage for end in outcome.exits if end.usage is not None]
    return least(Progress(usage.step, usage.steps) for usage in used if usage.step is not None)


def progress_in_run_dir(run: Run) -> Progress | None:
    """Return how far the last attempt is by the files that its ranks write, if they write them here."""
    for attempt in run.attempts()[-1:]:
        folder = str(run.path / f"attempt_{attempt}")
        told = [reported_step(folder, rank) for rank in run.ranks(attempt)]
        return least(Progress(of["step"], of.get("steps")) for of in told if of)
    return None
