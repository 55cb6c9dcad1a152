"""The job of a scheduler in which a supervisor runs: how much of its time is left, and why it is ended."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from muster.schedulers import slurm
from muster.world import queue


class BatchJob:
    """One job of Slurm, asked with care: an answer that does not come holds nothing up for long.

    `signal`: what ranks that listen get `before` seconds before the end of its time, and when it has to make room;
    0 for never. `chosen`: somebody chose that number. `signalled`: Slurm sends this process SIGURG when it is time.
    `logs`: where slurmstepd and srun write; what they hold already is of earlier attempts.
    """

    def __init__(
        self, job: str, signal: str, before: float, chosen: bool, signalled: bool, kill_wait: float, logs: list[Path]
    ):
        self.job, self.signal, self.before = job, signal, before
        self.chosen, self.signalled, self.kill_wait = chosen, signalled, kill_wait
        self._logs = {path: _size(path) for path in logs}
        self._asking: threading.Thread | None = None
        self._record: slurm.Record | None = None

    def ask(self) -> None:
        """Begin to ask slurmctld about the job; that may take a while, and meanwhile nothing is known of it."""
        self._record = None
        self._asking = threading.Thread(target=self._look, daemon=True)
        self._asking.start()

    @property
    def answered(self) -> bool:
        """It has answered, or will not."""
        return self._asking is None or not self._asking.is_alive()

    def time_left(self) -> float | None:
        """Seconds until the time limit, None where nobody says."""
        end = _seconds(self._record.end) if self._record is not None else None
        return None if end is None else end - time.time()

    def warn_before(self) -> float:
        """Seconds before the end of its time at which ranks are warned: of a short job at most a quarter, unless
        somebody chose a number."""
        start, end = (
            (_seconds(text) for text in (self._record.start, self._record.end)) if self._record else (None, None)
        )
        if self.chosen or start is None or end is None:
            return self.before
        return min(self.before, (end - start) / 4)

    def grace_left(self) -> float | None:
        """Seconds that a preempted job that still runs has; None for one that is being ended."""
        found = self._record
        end = _seconds(found.end) if found is not None and found.preempted and found.state == "RUNNING" else None
        return None if end is None else max(0.0, end - time.time())

    def why(self) -> str:
        """Why the job is being ended, as far as that is known by now; see `slurm.why_ended`."""
        return slurm.why_ended(self._said(), self._record)

    def _said(self) -> str:
        said = ""
        for path, seen in self._logs.items():
            with suppress(OSError), open(path, errors="replace") as file:
                file.seek(seen)
                said += file.read()
        return said

    def _look(self) -> None:
        found = queue.record(self.job)
        if found is not None:
            self._record = found


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _seconds(text: str) -> float | None:
    """`2026-11-27T00:05:09`, as Slurm writes a time, in seconds since 1970; None for `Unknown` and the like."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return None
