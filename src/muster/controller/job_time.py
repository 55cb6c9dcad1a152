"""The scheduler's job in which a controller runs: its remaining time, and why it is being terminated."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from muster.schedulers.client import SchedulerClient
from muster.schedulers.scheduler import JobRecord, JobTerms, Phase

_ROUNDED = 1.0
"""Seconds by which the time limit in a record may be late."""


class BatchJob:
    """A job, queried in the background: a missing answer delays nothing for long.

    `signalled`: the scheduler's warning signal, if any, is sent to this process. `logs`: output files of the job's
    steps and script; what they contain already is from earlier attempts.
    """

    def __init__(self, client: SchedulerClient, job: str, terms: JobTerms, signalled: bool, logs: list[Path]):
        self.client, self.job = client, job
        self.signal, self.before, self.chosen = terms.signal, terms.before, terms.chosen
        rules = client.scheduler.signals
        self.warning = rules.warning if signalled else ""
        """The signal with which the scheduler warns of the time limit; empty if none is sent."""
        self.stop = rules.stop
        """The signal with which the scheduler announces the end of the job."""
        self.kill_wait = client.kill_wait()
        self._logs = {path: _size(path) for path in logs}
        self._asking: threading.Thread | None = None
        self._record: JobRecord | None = None

    @property
    def title(self) -> str:
        """Name of its scheduler for users."""
        return self.client.title

    def ask(self) -> None:
        """Start querying the job's record; it is unknown until that is done."""
        self._record = None
        self._asking = threading.Thread(target=self._look, daemon=True)
        self._asking.start()

    @property
    def answered(self) -> bool:
        """Whether the query has finished, with or without an answer."""
        return self._asking is None or not self._asking.is_alive()

    def time_left(self) -> float | None:
        """Return the seconds until the time limit; None if unknown."""
        end = self._record.end if self._record is not None else None
        return None if end is None else end - time.time()

    def warn_before(self) -> float:
        """Return how many seconds before the time limit to warn ranks.

        For a short job this is at most a quarter of its time, unless the user chose a number.
        """
        found = self._record
        if self.chosen or found is None or found.start is None or found.end is None:
            return self.before
        return min(self.before, (found.end - found.start) / 4)

    def grace_left(self) -> float | None:
        """Return the seconds left for a preempted job that is still running; None for one that is being terminated."""
        found = self._record
        if found is None or found.end is None or not found.preempted:
            return None
        return max(0.0, found.end - time.time()) if self._phase(found) is Phase.RUNNING else None

    def _phase(self, found: JobRecord) -> Phase:
        return self.client.scheduler.phase(found.state)

    def why(self) -> str:
        """Return why the job is being terminated, if known by now; see `SignalRules.stopped_by`."""
        rules, left = self.client.scheduler.signals, self.time_left()
        if not rules.tells_limit and left is not None and left < _ROUNDED:
            return "time limit"
        return rules.stopped_by(self._said(), self._record)

    def _said(self) -> str:
        said = ""
        for path, seen in self._logs.items():
            with suppress(OSError), open(path, errors="replace") as file:
                file.seek(seen)
                said += file.read()
        return said

    def _look(self) -> None:
        found = self.client.record(self.job)
        if found is not None:
            self._record = found


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
