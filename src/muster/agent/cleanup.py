"""The end of an attempt on a node: processes left by ranks or by an external launcher are ended."""

from __future__ import annotations

import os
import time

from muster.agent.ranks import RankProcesses
from muster.linux import processes

_LINGER = 0.2
"""Seconds between checks for processes that ranks left behind, once these have been there for a while."""


class Cleanup:
    """Polls for leftover processes, and kills them when the time is up."""

    def __init__(self, ranks: RankProcesses) -> None:
        self.ranks, self.run = ranks, ranks.run
        self._until: float | None = None
        """Monotonic time at which they are killed; None if no cleanup is in progress."""
        self._killing: processes.Killing | None = None
        """They are being killed, if it is not None."""

    def begin(self, patience: float, well: bool) -> None:
        """End what is left of the attempt; leftover processes get `patience` seconds to exit by themselves.

        `well`: no rank has failed, so an external launcher exits by itself. A second call during a cleanup changes the
        time.
        """
        if self._killing is not None:
            return  # what is asked for is nearly done
        external = self.ranks.external
        self.ranks.pending_start = None  # nothing starts any more once a fork server is ready
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
        """Kill what is still alive; a process that the kernel cannot end, as its disk stalls, holds up nothing else."""
        self._until, self.ranks.killing = None, True
        self._killing = processes.Killing(os.getpid())
        self._kill(self._killing, processes.LOOKS_AGAIN)

    def _kill(self, killing: processes.Killing, pause: float) -> None:
        """Kill until nothing is left, or the time is over."""
        if not killing.step(self.ranks.persistent_pids()):
            self.run.loop.call_later(pause, lambda: self._kill(killing, min(_LINGER, pause * 1.5)))
            return
        self._killing, killed, alive = None, killing.killed, killing.left
        self.ranks.reap()
        self.run.logs.settle()
        self.ranks.watch.tell()
        # processes of an external launcher were not left behind by ranks
        self.run.emit("cleaned_up", ended=[] if self.ranks.external is not None else killed, left=alive)
