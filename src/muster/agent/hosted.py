"""A run on a session, as one of its nodes sees it: a second agent in the process of the session's agent.

It has its own run directory, logs, ranks and connection to the controller of its run. It shares the process, because
the ranks are forks of the session's preloaded interpreter, and only an ancestor gets their exit statuses.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from muster.agent.agent import Agent
from muster.agent.settle import settle
from muster.linux import processes
from muster.linux.eventloop import Callback, EventLoop, File, Timer
from muster.protocol.channel import Channel

if TYPE_CHECKING:
    from muster.agent.dialer import Met
    from muster.agent.ranks import Hosting


class HostedLoop(EventLoop):
    """The part of another event loop that one run uses: it ends with the run, and so do its errors."""

    def __init__(self, loop: EventLoop, failed: Callable[[], object]) -> None:
        """`failed` is called while an exception of a callback is handled."""
        self._loop, self._failed, self.over = loop, failed, False
        self._files: dict[tuple[int, str], File] = {}
        """What is watched, by descriptor and side."""

    def _guarded(self, callback: Callback) -> Callback:
        def call() -> None:
            if self.over:
                return
            try:
                callback()
            except Exception:
                self._failed()

        return call

    def add_reader(self, file: File, callback: Callback) -> None:
        """Call `callback` whenever `file` is readable."""
        self._files[_fd(file), "reader"] = file
        self._loop.add_reader(file, self._guarded(callback))

    def remove_reader(self, file: File) -> bool:
        """Stop watching `file` for reading."""
        self._files.pop((_fd(file), "reader"), None)
        return self._loop.remove_reader(file)

    def add_writer(self, file: File, callback: Callback) -> None:
        """Call `callback` whenever `file` is writable."""
        self._files[_fd(file), "writer"] = file
        self._loop.add_writer(file, self._guarded(callback))

    def remove_writer(self, file: File) -> bool:
        """Stop watching `file` for writing."""
        self._files.pop((_fd(file), "writer"), None)
        return self._loop.remove_writer(file)

    def reads(self, file: File) -> bool:
        """Return whether `file` is watched for reading."""
        return self._loop.reads(file)

    def time(self) -> float:
        """Return the time of the loop's clock, in seconds."""
        return self._loop.time()

    def call_later(self, seconds: float, callback: Callback) -> Timer:
        """Call `callback` once after `seconds`, unless the run has ended by then."""
        return self._loop.call_later(seconds, self._guarded(callback))

    def call_soon_threadsafe(self, callback: Callback) -> None:
        """Call `callback` once in the thread of the loop."""
        self._loop.call_soon_threadsafe(self._guarded(callback))

    def run_once(self, timeout: float | None = None) -> None:
        """Fail: only the session's agent waits for events."""
        raise RuntimeError("the loop of a session's agent is run by that agent")

    def close(self) -> None:
        """Stop everything that this part of the loop was asked for, and close pipes that nobody else closes."""
        self.over = True
        for fd, file in {fd: file for (fd, _), file in self._files.items()}.items():
            self._loop.remove(fd)
            if isinstance(file, socket.socket):
                file.close()  # which would otherwise close a number that is used again by then
            else:
                os.close(fd)
        self._files.clear()


def _fd(file: File) -> int:
    return file if isinstance(file, int) else file.fileno()


class HostedAgent(Agent):
    """The agent of a run on a session. `inherited` is the environment that its ranks inherit."""

    def __init__(
        self, loop: EventLoop, hook: Mapping[str, str | bytes], hosting: Hosting, inherited: dict[str, str]
    ) -> None:
        self.own_loop = HostedLoop(loop, self.crashed)
        super().__init__(self.own_loop, hook)
        self.wire = Channel(keeps=True)
        self.hosting = self._session = hosting
        self.inherited = self._variables = inherited
        self.over = False
        """True once nothing of the run is left here."""
        self._log = -1
        self._notes: list[str] = []
        """Messages for the user from before the first connection."""

    def emit(self, kind: str, payload: bytes = b"", **fields: Any) -> None:
        """Send a message to the controller; one for the user waits for the first connection."""
        if kind == "note" and not self.met_controller:
            self._notes.append(fields["text"])
        else:
            super().emit(kind, payload, **fields)

    def connected(self, met: Met, same: bool) -> None:
        """Continue on a new connection."""
        super().connected(met, same)
        notes, self._notes = self._notes, []
        for text in notes:
            self.emit("note", text=text)

    def open_log(self) -> None:
        """Open agent.log of this run; stderr of the process is that of the session."""
        self._log = os.open(os.path.join(self.folder, "agent.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def complain(self, text: str) -> None:
        """Write a message to agent.log of this run."""
        data = f"muster agent: {text}\n"
        if self._log >= 0:
            os.write(self._log, data.encode("utf-8", "backslashreplace"))
        else:
            sys.stderr.write(data)

    def put_first_on_path(self, folder: str) -> None:
        """Put a directory first on PATH for the ranks of this run."""
        self._variables["PATH"] = folder + os.pathsep + self._variables.get("PATH", os.defpath)

    def turn(self) -> None:
        """Send output after events; note whether the run has ended here."""
        if not self.over:
            try:
                self.logs.send()
            except Exception:
                self.crashed()
            if self.leaving and self.wire.idle and self.logs.sent and self.logs.kept:
                self.forget_run_dir()
                self.over = True

    def quit(self) -> None:
        """End this run here; the process continues."""
        self.over = True

    def crashed(self) -> None:
        """End the ranks of this run after an error in its agent, which is being handled."""
        if self.over:
            return
        self.complain(traceback.format_exc())
        self.over, text = True, self.tell_crash()
        if self.wire.connected:
            self.wire.flush()
        if self.prepared:
            self.ranks.killing = True
            spared = self.ranks.persistent_pids() if self.controller is not None else self._session.ranks.names
            _, left = processes.kill_descendants(os.getpid(), list(spared))
            self.record_end(f"the agent failed ({text.strip().splitlines()[-1]})", left)

    def close(self) -> None:
        """Close everything that belongs to this run alone."""
        self.own_loop.over = False  # what follows closes files by way of it
        files: list[int] = []
        if self.prepared:
            self.ranks.close()
            self.ranks.family.remove(self.ranks)
            files += [fd for fd in (self.ranks.null, self.ranks.asked) if fd is not None]
            self.ranks.stdin.close()
            self.ranks.watch.close()
            if self.visitors is not None:
                self.visitors.close()
            self.logs.close()
        if self.wire.connected:
            self.loop.remove(self.wire.reading, self.wire.writing)
            files += [self.wire.reading, self.wire.writing]
            self.wire.disconnect()
        if self.controller is not None:
            self.controller.close()
        for fd in dict.fromkeys((*files, *([self._log] if self._log >= 0 else []))):
            self.loop.remove(fd)
            os.close(fd)
        self._log = -1
        self.own_loop.close()


def start(agent: HostedAgent, where: Mapping[str, Any], door: bool) -> int:
    """Configure the agent of a run on a session, as `detach.py` does; return the port for the agents of other nodes.

    `door`: this is node 0, and there are others. The port is 0 where there is none. Raises OSError.
    """
    if door:
        from muster.agent import facts

        agent.survey.probe_port = facts.open_probe_port()
    settle(agent, b"", **where)
    return int(agent.survey.probe_port.getsockname()[1]) if agent.survey.probe_port is not None else 0
