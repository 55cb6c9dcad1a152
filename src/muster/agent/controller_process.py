"""The parent of a run's controller on this node: it starts the controller, and restarts it when it dies.

The listening sockets belong to this agent: clients that connect while there is no controller wait in the kernel's queue
for the next one.
"""

from __future__ import annotations

import json
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
"""The controller's program, in the run directory."""

_LOG = "controller.log"
_PAUSE = 0.1
_TOO_OFTEN, _WITHIN = 5, 60.0
"""Number of deaths within so many seconds after which the controller is not restarted."""


class ControllerProcess:
    """The parent of the controller.

    `door` is the descriptor of the port to which the agents of other nodes connect; -1 for none. `started` is called
    with each pid, and `connected` with each connection; `lost` with the reason when the controller is not restarted any
    more. `trace`: the controller traces messages (`protocol/trace.py`). `standby`: a process that becomes
    the controller.
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
        standby: Standby | None = None,
    ) -> None:
        self._standby = standby
        self._archive = standby.archive if standby is not None else os.path.join(run_dir, ARCHIVE)
        self.loop, self.run_dir, self.door, self.secret, self.trace = loop, run_dir, door, secret, trace
        self._started, self._connected, self._lost = started, connected, lost
        self.viewers = sockets.listen(SUPERVISOR)
        self.deaths: list[float] = []

    def start(self) -> None:
        """Start the controller, and connect to it."""
        run_dir = self.run_dir
        ours, theirs = socket.socketpair()
        if self._standby is not None and not self._standby.taken and not self.trace:
            doors = [theirs.fileno(), self.viewers.fileno(), *([self.door] if self.door >= 0 else [])]
            became = self._standby.become(run_dir, self.secret, doors)
            theirs.close()
            if became:
                self._connected(Met(ours.detach(), FrameDecoder(), 0, None), False)
                return
            ours.close()
            ours, theirs = socket.socketpair()
        opened = []
        try:
            told, tell = os.pipe()
            opened.append(told)
            os.write(tell, self.secret.encode())
            os.close(tell)
            log = os.open(os.path.join(run_dir, _LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            opened.append(log)
            doors = [theirs.fileno(), self.viewers.fileno(), *([self.door] if self.door >= 0 else [])]
            argv = [sys.executable, "-I", "-S", self._archive, "serve", run_dir, *map(str, doors)]
            env = {**os.environ, "MUSTER_TRACE": "1"} if self.trace else os.environ
            pid = processes.spawn(argv, env, "/", told, log, log, keep=doors, tied=False)
        except OSError:
            ours.close()
            raise
        finally:
            for fd in opened:
                os.close(fd)
            theirs.close()
        self._started(pid)
        self._connected(Met(ours.detach(), FrameDecoder(), 0, None), False)

    def close(self) -> None:
        """Close the listening sockets, which the controller has, too."""
        self.viewers.close()

    def again(self) -> None:
        """Restart the controller after its death."""
        if not self._too_often(self._last_words()):
            self.loop.call_later(_PAUSE, self._restart)

    def _restart(self) -> None:
        """Start the controller; if that is impossible now, try again as after its death."""
        try:
            self.start()
        except OSError as error:
            why = f"cannot be started: {processes.reason_at(error)}"
            if not self._too_often(why):
                self.loop.call_later(_PAUSE * 4 ** len(self.deaths), self._restart)

    def _too_often(self, said: str) -> bool:
        """Count an end of the controller, and give it up after too many of them."""
        now = time.monotonic()
        self.deaths = [when for when in self.deaths if now - when < _WITHIN] + [now]
        if len(self.deaths) < _TOO_OFTEN:
            return False
        self._lost(f"the controller exited {_TOO_OFTEN} times{f' ({said})' if said else ''}; see controller.log")
        return True

    def _last_words(self) -> str:
        """Return the last line that the controller wrote; empty if unknown."""
        try:
            with open(os.path.join(self.run_dir, _LOG), "rb") as file:
                lines = file.read()[-4096:].decode("utf-8", "replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


class Standby:
    """A process that has imported the controller, and forks one for each run of a session in advance.

    `session_dir` has the archive; `started` is called with the pid of each process.
    """

    def __init__(self, loop: EventLoop, session_dir: str, started: Callable[[int], object]) -> None:
        self.archive = os.path.join(session_dir, ARCHIVE)
        self._loop, self._started = loop, started
        self._sock: socket.socket | None = None
        """Leads to the fork that waits for a run; None if it has one."""
        self._pid = 0
        """The pid of the last fork; 0 until it is known."""
        self._parent, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.dead = False
        """True once it forks no more."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        log = os.open(os.path.join(session_dir, _LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        argv = [sys.executable, "-I", "-S", self.archive, "standby", str(theirs.fileno())]
        try:
            pid = processes.spawn(argv, os.environ, "/", null, log, log, keep=(theirs.fileno(),), tied=False)
        except OSError:
            self._parent.close()
            raise
        finally:
            for fd in (null, log):
                os.close(fd)
            theirs.close()
        started(pid)
        loop.add_reader(self._parent, self._heard)

    @property
    def taken(self) -> bool:
        """Whether no fork waits for a run."""
        return self._sock is None

    def refill(self) -> None:
        """Have it fork, unless a fork waits already."""
        if self._sock is None and not self.dead:
            self._sock, theirs = socket.socketpair()
            self._pid = 0
            try:
                socket.send_fds(self._parent, [b"fork"], [theirs.fileno()])
            except OSError:
                self._end()
            theirs.close()

    def _heard(self) -> None:
        """Take in the pid of a fork."""
        try:
            text = self._parent.recv(32)
        except OSError:
            text = b""
        if not text:
            self._end()
            return
        self._pid = int(text)
        self._started(self._pid)

    def _end(self) -> None:
        if not self.dead:
            self.dead = True
            self._loop.remove_reader(self._parent)
            self._parent.close()

    def become(self, run_dir: str, secret: str, doors: list[int]) -> bool:
        """Have the fork serve this run; return False if there is none. `doors` are its sockets."""
        sock, self._sock = self._sock, None
        data = json.dumps({"run_dir": run_dir, "secret": secret}).encode()
        data = len(data).to_bytes(4, "big") + data
        if sock is None:
            return False
        try:
            # short enough for the buffer; the other end closes its socket as soon as it has everything
            socket.send_fds(sock, [data], doors)
        except OSError:
            return False
        finally:
            sock.close()
        return True

    def close(self) -> None:
        """Have it exit, and the fork that waits."""
        self._end()
        if self._sock is not None:
            self._sock.close()
            self._sock = None
