"""The job of a scheduler in which a supervisor runs: how much of its time is left, and why it is ended."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from muster.schedulers.client import SchedulerClient
from muster.schedulers.scheduler import JobRecord, JobTerms, Phase


class BatchJob:
    """One job, asked about with care: an answer that does not come holds nothing up for long.

    `signalled`: the scheduler's warning, where it has one, is sent to this process. `logs`: where its steps and its
    script write; what they hold already is of earlier attempts.
    """

    def __init__(self, client: SchedulerClient, job: str, terms: JobTerms, signalled: bool, logs: list[Path]):
        self.client, self.job = client, job
        self.signal, self.before, self.chosen = terms.signal, terms.before, terms.chosen
        rules = client.scheduler.signals
        self.warning = rules.warning if signalled else ""
        """The signal by which the scheduler says that the end of the time is near; empty where none comes."""
        self.kill_wait = client.kill_wait()
        self._logs = {path: _size(path) for path in logs}
        self._asking: threading.Thread | None = None
        self._record: JobRecord | None = None

    @property
    def title(self) -> str:
        """What people call its scheduler."""
        return self.client.title

    def ask(self) -> None:
        """Begin to ask about the job; that may take a while, and meanwhile nothing is known of it."""
        self._record = None
        self._asking = threading.Thread(target=self._look, daemon=True)
        self._asking.start()

    @property
    def answered(self) -> bool:
        """It has answered, or will not."""
        return self._asking is None or not self._asking.is_alive()

    def time_left(self) -> float | None:
        """Seconds until the time limit, None where nobody says."""
        end = self._record.end if self._record is not None else None
        return None if end is None else end - time.time()

    def warn_before(self) -> float:
        """Seconds before the end of its time at which ranks are warned: of a short job at most a quarter, unless
        somebody chose a number."""
        found = self._record
        if self.chosen or found is None or found.start is None or found.end is None:
            return self.before
        return min(self.before, (found.end - found.start) / 4)

    def grace_left(self) -> float | None:
        """Seconds that a preempted job that still runs has; None for one that is being ended."""
        found = self._record
        if found is None or found.end is None or not found.preempted:
            return None
        return max(0.0, found.end - time.time()) if self._phase(found) is Phase.RUNNING else None

    def _phase(self, found: JobRecord) -> Phase:
        return self.client.scheduler.phase(found.state)

    def why(self) -> str:
        """Why the job is being ended, as far as that is known by now; see `SignalRules.stopped_by`."""
        return self.client.scheduler.signals.stopped_by(self._said(), self._record)

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
