"""The end of an attempt on a node: what ranks, or a launcher, have left behind ends."""

from __future__ import annotations

import os
import time

from muster.agent.ranks import RankProcesses
from muster.linux import processes

_LINGER = 0.2
"""Seconds between checks for processes that ranks left behind, once these have been there for a while."""


class Cleanup:
    """Looks again and again for what is left, and ends it when its time is up."""

    def __init__(self, ranks: RankProcesses) -> None:
        self.ranks, self.run = ranks, ranks.run
        self._until: float | None = None
        """When what is left is ended; None while nothing is cleaned up."""

    def begin(self, patience: float, well: bool) -> None:
        """End whatever is left of the attempt; what ranks left behind has `patience` seconds to end by itself.

        `well`: no rank has failed, so a launcher ends by itself. To begin again while it goes on changes the time.
        """
        external = self.ranks.external
        self.ranks.store.end()
        waiting, self._until = self._until, time.monotonic() + patience
        if waiting is None and external is not None:
            # what ranks left behind is ended by then; this is the launcher's, which gets no time of its own
            external.on_cleaned_up(well, self._end)
        elif external is not None:
            external.skip_wait()
        elif waiting is None:
            self._look(0.002)

    def _look(self, pause: float) -> None:
        """Check again until no process is left or the time is over."""
        left = self.ranks.left()
        if left and self._until is not None and time.monotonic() < self._until:
            if pause < _LINGER <= pause * 1.5:
                found = [processes.describe_process(pid, name) for pid, name in left.items()]
                self.run.emit("cleanup_waiting", left=found)
            self.run.loop.call_later(pause, lambda: self._look(min(_LINGER, pause * 1.5)))
            return
        self._end()

    def _end(self) -> None:
        """End what still lives."""
        self._until = None
        killed, alive = processes.kill_descendants(os.getpid(), self.ranks.persistent_pids())
        self.ranks.reap()
        self.run.logs.settle()
        # what a launcher has started and not ended is nothing that a rank has left behind
        self.run.emit("cleaned_up", ended=[] if self.ranks.external is not None else killed, left=alive)
