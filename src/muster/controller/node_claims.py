"""Exclusive claims on nodes of an allocation, for several small runs side by side in one job.

A claim is a lock on a file, which the job step of the run's controller inherits, so it is released however that ends.
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
"""Seconds between checks for free nodes."""
_OLD = 30 * 86400.0
"""Seconds after which the files of a job are obsolete."""


class Claims:
    """The nodes of one job that this process has claimed. At the end of the context only their heirs have them."""

    def __init__(self, root: Path, scheduler: str, job: str):
        self._folder, self._job = root / f"{scheduler}-nodes", job
        self.descriptors: dict[str, int] = {}
        """File descriptors of the locks, by node."""
        with suppress(OSError):
            processes.make_private(str(self._folder))
            for path in self._folder.iterdir():
                if time.time() - path.stat().st_mtime > _OLD:
                    path.unlink()

    def take(self, hosts: Sequence[str], count: int | None, waits: Callable[[], object]) -> tuple[str, ...]:
        """Claim `count` of these nodes that no other run has, and return them in order; None: all, claimed or not.

        `waits` is called once if the call has to wait.
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

    def __enter__(self) -> Claims:
        return self

    def __exit__(self, *_: object) -> None:
        self._release(list(self.descriptors))

    def _lock(self, host: str) -> bool:
        """Lock a node; return whether that succeeded. If files cannot be locked, every run counts as alone."""
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
