"""A run as one page of HTML: what was recorded, as values, and the page made of them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING

from muster.core.results import RunResult, RunState
from muster.linux.processes import reason

if TYPE_CHECKING:
    from muster.rundir.run import Run

REPORT = "report.html"
"""The name of the report in the run directory."""


def make_report(run: Run, env: Mapping[str, str], state: str = "") -> str:
    """Return the report of a run as HTML. Raises `Unreadable`.

    `env` is the environment, whose secret values do not appear in it; `state` is the state of a run that has no result.
    """
    from muster.report.collect import collect
    from muster.report.page import report_page

    return report_page(collect(run, env, state))


def import_ahead() -> None:
    """Import what a report is made with, on a thread.

    Most of the time that a report takes is this import: it is over when the other ranks of a failing run have been
    terminated.
    """

    def load() -> None:
        with suppress(Exception):  # told when the report is written
            import muster.report.collect
            import muster.report.page  # noqa: F401

    Thread(target=load, name="report", daemon=True).start()


def is_reported(outcome: RunResult) -> bool:
    """Return whether a run with this result writes its report by itself: its ranks ran, and it failed."""
    return outcome.state in (RunState.FAILED, RunState.TIMED_OUT, RunState.ERROR) and bool(outcome.exits)


def write_report(run: Run, outcome: RunResult, env: Mapping[str, str]) -> str:
    """Write the report of a failed run into its run directory; return why that failed, empty if it did not."""
    if not is_reported(outcome):
        return ""
    try:
        run.replace(REPORT, make_report(run, env).encode("utf-8", "replace"))
    except Exception as error:  # whatever is wrong with the report must not change how the run ends
        return f"warning: cannot write {run.path / REPORT}: {reason(error)}"
    return ""
