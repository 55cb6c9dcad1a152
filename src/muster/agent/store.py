"""The store of an attempt: its port, and the process that serves it."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable

from muster.linux import hardware, processes
from muster.linux.eventloop import EventLoop


class StoreProcess:
    """The TCPStore of one attempt after the other, on node 0."""

    host: str
    """Address on which the store of this attempt listens."""

    def __init__(self, loop: EventLoop, waits: bool, start: Callable[[socket.socket], object]) -> None:
        """`waits`: start the process only when the first rank connects. `start` starts it on the given socket."""
        self.loop, self._waits, self._start = loop, waits, start
        self._listener: socket.socket | None = None
        self._started = False
        """True once the process of this attempt was started."""
        self.pid: int | None = None
        """Pid of its process, while that runs."""

    def listen(self, host: str) -> int:
        """Open the port of the next attempt's store; return its number."""
        self.host = host
        self._listener = listener = hardware.listen(host)
        self._started = False
        if self._waits:
            # This program may never use the store, and importing torch for nothing costs a second.
            self.loop.add_reader(listener.fileno(), lambda: self._wanted(listener))
        port: int = listener.getsockname()[1]
        return port

    def _wanted(self, listener: socket.socket) -> None:
        """Start the store for the first rank that connects."""
        self.loop.remove_reader(listener.fileno())
        self._start(listener)

    def start_unless_it_waits(self) -> None:
        """Start the process because ranks start, if its port is open and it does not wait for a connection."""
        if self._listener is not None and not self._waits and not self._started:
            self._started = True
            self._start(self._listener)

    def ended(self, pid: int) -> bool:
        """Record the exit of a process; return True if it was that of this attempt's store."""
        if pid != self.pid:
            return False
        self.pid = None
        return True

    def end(self) -> None:
        """Kill the process and close the port."""
        if self.pid is not None:
            processes.send_signal(self.pid, signal.SIGKILL)
        if self._listener is not None:
            self.loop.remove_reader(self._listener.fileno())
            self._listener.close()
        self._listener, self.pid = None, None
