"""How far a run is, by what its ranks report: `muster.progress`."""

from __future__ import annotations

from muster.client.client import Client, ask
from muster.core.json_checks import Malformed, checked, table, whole
from muster.core.progress import Progress, least
from muster.errors import MusterError
from muster.rundir.progress import progress_in_run_dir
from muster.rundir.run import Run

_STEP = {"step": whole, "steps": whole}


def progress_now(run: Run, client: Client, within: float) -> Progress | None:
    """Return how far a running run is; None if its ranks report nothing, or that is not known.

    The run directory has it if the ranks write there, as on this machine or in a shared home; else the controller is
    asked, for at most `within` seconds. That of a scheduler's job is not: its run directory is shared, and a job step
    for each run of a long list would take minutes.
    """
    here = progress_in_run_dir(run)
    if here is not None or not run.job.get("served") or run.scheduled is not None:
        return here
    try:
        ranks = table(ask(run, "usage", client, within, only_steps=True).get("ranks"))
        found = [checked(table(of), {**_STEP, "node": whole}, ("node",)) for of in ranks.values()]
    except (MusterError, Malformed):
        return None
    return least(Progress(of["step"], of.get("steps")) for of in found if "step" in of)
