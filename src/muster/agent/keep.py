"""Keep the supervisor of a run alive on this node: start it, and start it again when it dies.

Its ports are this agent's: whoever calls while there is no supervisor waits in the kernel's queue for the next one.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import TYPE_CHECKING

from muster.agent import system
from muster.agent.dial import Met
from muster.agent.local import SUPERVISOR, Sockets
from muster.agent.protocol import Unpacker

if TYPE_CHECKING:
    from muster.agent.agent import Agent

ARCHIVE = "muster.pyz"
"""The program of the supervisor, in the run directory."""

_LOG = "supervisor.log"
_PAUSE = 0.1
_TOO_OFTEN, _WITHIN = 5, 60.0
"""So many deaths in so many seconds, and it is not started again."""


class Keeper:
    """The supervisor's parent. `door` is the port at which the agents of other nodes call; -1 for none."""

    def __init__(self, agent: Agent, sockets: Sockets, door: int, secret: str):
        self.agent, self.door, self.secret = agent, door, secret
        self.viewers = sockets.listen(SUPERVISOR)
        self.deaths: list[float] = []

    def start(self) -> None:
        """Start the supervisor, and speak to it."""
        run_dir = self.agent.run_dir
        ours, theirs = socket.socketpair()
        told, tell = os.pipe()
        os.write(tell, self.secret.encode())
        os.close(tell)
        log = os.open(os.path.join(run_dir, _LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        doors = [theirs.fileno(), self.viewers.fileno(), *([self.door] if self.door >= 0 else [])]
        argv = [sys.executable, "-I", "-S", os.path.join(run_dir, ARCHIVE), "serve", run_dir, *map(str, doors)]
        try:
            env = {**os.environ, "MUSTER_TRACE": "1"} if self.agent.trace else os.environ
            pid = system.launch(argv, env, "/", told, log, log, keep=doors, tied=False)
        finally:
            for fd in (told, log):
                os.close(fd)
            theirs.close()
        self.agent.members.names[pid] = "supervisor"
        self.agent.connected(Met(ours.detach(), Unpacker(), 0, None), False)

    def again(self) -> None:
        """It has died."""
        now = time.monotonic()
        self.deaths = [when for when in self.deaths if now - when < _WITHIN] + [now]
        if len(self.deaths) >= _TOO_OFTEN:
            said = self._last_words()
            self.agent.lost(f"the supervisor died {_TOO_OFTEN} times{f' ({said})' if said else ''}; see supervisor.log")
        else:
            self.agent.after(_PAUSE, self.start)

    def _last_words(self) -> str:
        """The last line that the supervisor wrote; empty where that is not known."""
        try:
            with open(os.path.join(self.agent.run_dir, _LOG), "rb") as file:
                lines = file.read()[-4096:].decode("utf-8", "replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
