"""A connection to the controller of a run on this machine: a thread in place of the program that is sent to others."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from muster.agent import proxy
from muster.controller.connections import AgentConnection, ProcessConnection
from muster.linux import processes
from muster.protocol.channel import Channel


class ThreadConnection(ProcessConnection):
    """A thread that relays to a controller on this machine, behind the interface of a child process.

    Starting Python for it takes as long as forking eight ranks.
    """

    def __init__(self, host: str, work: Callable[[int, int, int], object]) -> None:
        """`work` is called in the thread with the descriptors of its stdin, stdout and stderr."""
        source, ours = os.pipe()
        heard, sink = os.pipe()
        complaints, errors = os.pipe()
        self.stdin, self.stdout, self.stderr = (
            os.fdopen(fd, mode, 0) for fd, mode in ((ours, "wb"), (heard, "rb"), (complaints, "rb"))
        )
        for fd in (ours, heard, complaints):
            os.set_blocking(fd, False)

        def run() -> None:
            try:
                work(source, sink, errors)
            except OSError:
                pass  # the client has left
            finally:
                for fd in (source, sink, errors):
                    os.close(fd)

        AgentConnection.__init__(self, 0, host, Channel(heard, ours))
        self.banner = None
        self.stderr_tail = bytearray()
        self.guarded = False
        try:
            self._thread: threading.Thread = processes.start_thread(run)
        except OSError:
            for fd in (source, sink, errors):
                os.close(fd)
            self.terminate()
            raise

    def ends_within(self, seconds: float) -> bool:
        """Return whether the thread ends within `seconds`."""
        self._thread.join(max(0.1, seconds))
        return not self._thread.is_alive()

    def terminate(self) -> None:
        """Have the thread end: nothing is read or written any more."""
        self.stdin.close()
        self.stdout.close()

    def kill(self) -> None:
        """Leave the thread alone: it waits for a controller that accepts no connections, and ends after that."""

    def reap(self) -> None:
        """Do nothing: see `kill`."""

    def kill_guarded(self) -> bool:
        """Return False: there is no agent behind it."""
        return False

    def status(self) -> tuple[int | None, str]:
        """Return that it ended without an exit code."""
        return 0, "ended"


def visit(run_dir: str, host: str) -> ThreadConnection:
    """Return a connection to the controller of the run in this directory, as `agent/calls.py` makes one elsewhere."""
    return ThreadConnection(host, lambda source, sink, errors: proxy.visit(run_dir, source, sink, errors))
