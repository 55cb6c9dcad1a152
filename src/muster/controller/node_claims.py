"""Which nodes of an allocation a run has for itself: several small runs side by side in one job.

A claim is a lock on a file, which the step of the run's supervisor inherits: whatever ends that ends the claim.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from muster.linux import processes

_PAUSE = 0.5
"""Seconds between two looks at whether nodes have become free."""
_OLD = 30 * 86400.0
"""Seconds after which the files of a job are of no use any more."""


class Claims:
    """The nodes of one job, and those of them that this process has."""

    def __init__(self, root: Path, scheduler: str, job: str):
        self._folder, self._job = root / f"{scheduler}-nodes", job
        self.descriptors: dict[str, int] = {}
        """Of the locks, by node."""
        with suppress(OSError):
            processes.make_private(str(self._folder))
            for path in self._folder.iterdir():
                if time.time() - path.stat().st_mtime > _OLD:
                    path.unlink()

    def take(self, hosts: Sequence[str], count: int | None, waits: Callable[[], object]) -> tuple[str, ...]:
        """So many of these nodes, in their order, which no other run has; `waits` is called once if that takes time.

        Without a `count` all of them, whoever else has them.
        """
        told = False
        while True:
            free = [host for host in hosts if self._lock(host)]
            if count is None:
                return tuple(hosts)
            if len(free) >= count:
                self._release(free[count:])
                return tuple(free[:count])
            self._release(free)
            if not told:
                told = True
                waits()
            time.sleep(_PAUSE)

    def hand_over(self) -> None:
        """Another process has inherited the locks, and keeps them."""
        self._release(list(self.descriptors))

    def _lock(self, host: str) -> bool:
        """Have the lock of a node. Where files cannot be locked, each run counts as alone."""
        descriptor = -1
        try:
            descriptor = os.open(self._folder / f"{self._job}-{host}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:
            if descriptor >= 0:
                os.close(descriptor)
            return True
        self.descriptors[host] = descriptor
        return True

    def _release(self, hosts: Sequence[str]) -> None:
        for host in hosts:
            if host in self.descriptors:
                os.close(self.descriptors.pop(host))
