"""Keep the supervisor of a run alive on this node: start it, and start it again when it dies.

Its ports are this agent's: whoever calls while there is no supervisor waits in the kernel's queue for the next one.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable

from muster.agent.dialer import Met
from muster.linux import processes
from muster.linux.eventloop import EventLoop
from muster.protocol.frames import FrameDecoder
from muster.protocol.local_sockets import SUPERVISOR, Sockets

ARCHIVE = "muster.pyz"
"""The program of the supervisor, in the run directory."""

_LOG = "supervisor.log"
_PAUSE = 0.1
_TOO_OFTEN, _WITHIN = 5, 60.0
"""So many deaths in so many seconds, and it is not started again."""


class ControllerProcess:
    """The supervisor's parent. `door` is the port at which the agents of other nodes call; -1 for none.

    `started` is given its pid, and `connected` the connection to it, each time; `lost` why it is not started any more.
    `trace`: it prints what is said (`protocol/trace.py`).
    """

    def __init__(
        self,
        loop: EventLoop,
        run_dir: str,
        sockets: Sockets,
        door: int,
        secret: str,
        started: Callable[[int], object],
        connected: Callable[[Met, bool], object],
        lost: Callable[[str], object],
        trace: bool,
    ) -> None:
        self.loop, self.run_dir, self.door, self.secret, self.trace = loop, run_dir, door, secret, trace
        self._started, self._connected, self._lost = started, connected, lost
        self.viewers = sockets.listen(SUPERVISOR)
        self.deaths: list[float] = []

    def start(self) -> None:
        """Start the supervisor, and speak to it."""
        run_dir = self.run_dir
        ours, theirs = socket.socketpair()
        told, tell = os.pipe()
        os.write(tell, self.secret.encode())
        os.close(tell)
        log = os.open(os.path.join(run_dir, _LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        doors = [theirs.fileno(), self.viewers.fileno(), *([self.door] if self.door >= 0 else [])]
        argv = [sys.executable, "-I", "-S", os.path.join(run_dir, ARCHIVE), "serve", run_dir, *map(str, doors)]
        try:
            env = {**os.environ, "MUSTER_TRACE": "1"} if self.trace else os.environ
            pid = processes.spawn(argv, env, "/", told, log, log, keep=doors, tied=False)
        finally:
            for fd in (told, log):
                os.close(fd)
            theirs.close()
        self._started(pid)
        self._connected(Met(ours.detach(), FrameDecoder(), 0, None), False)

    def again(self) -> None:
        """It has died."""
        now = time.monotonic()
        self.deaths = [when for when in self.deaths if now - when < _WITHIN] + [now]
        if len(self.deaths) >= _TOO_OFTEN:
            said = self._last_words()
            self._lost(f"the supervisor died {_TOO_OFTEN} times{f' ({said})' if said else ''}; see supervisor.log")
        else:
            self.loop.call_later(_PAUSE, self.start)

    def _last_words(self) -> str:
        """The last line that the supervisor wrote; empty where that is not known."""
        try:
            with open(os.path.join(self.run_dir, _LOG), "rb") as file:
                lines = file.read()[-4096:].decode("utf-8", "replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
