"""What a run used, from the accounting of its scheduler where there is one."""

from __future__ import annotations

from muster.core.accounting import RunUse, as_recorded
from muster.rundir.run import Run
from muster.schedulers import title
from muster.schedulers.client import client


def used(run: Run, own: RunUse | None) -> RunUse | None:
    """Return what a run that has ended used, with the numbers of accounting in place of muster's `own`.

    Asks the scheduler once, so it is for one run and not for a list. A job that existed before the run may have had
    other runs, so its numbers are not those of this one. Raises `Unreadable`.
    """
    scheduled = run.scheduled
    if scheduled is None or scheduled.allocated:
        return own
    found = client(scheduled.name).recorded(scheduled.job, float(run.job["time"]))
    return own if found is None else as_recorded(own, found, f"{title(scheduled.name)} accounting")
