"""Connections to agents: child processes whose stdin and stdout carry frames, and TCP connections."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from muster.agent.bootstrap import SETUP_FAILED, agent_source, calls_source, is_no_python
from muster.core.model import PASSES, Job, Node
from muster.core.printable import line as safe
from muster.errors import InvalidRequest
from muster.linux import processes, procfs
from muster.linux.eventloop import EventLoop
from muster.linux.signals import CapturedSignals, not_ignored
from muster.protocol.channel import Channel
from muster.protocol.frames import MAGIC, encode_frame
from muster.transports import TRANSPORTS
from muster.transports.target import Target, target_of

if TYPE_CHECKING:
    from muster.agent.dialer import Met


class AgentConnection:
    """The connection to the agent of one node."""

    def __init__(self, node: int, host: str, wire: Channel):
        self.node, self.host, self.channel = node, host, wire
        self.offset = 0.0
        """Its monotonic clock minus this machine's, in seconds."""
        self.facts: dict[str, Any] = {}
        """The facts it reported."""
        self.open = True
        self.broken = ""
        """The last line of a failed agent's error message."""
        self.met_limit = False
        """It failed because its user's process limit was reached."""


class ProcessConnection(AgentConnection):
    """A child process whose stdin and stdout carry frames."""

    def __init__(
        self, node: int, host: str, argv: Sequence[str], env: Mapping[str, str], cwd: str, keep: Sequence[int] = ()
    ):
        """`keep` are descriptors that it inherits, under the same numbers."""
        try:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=env,
                cwd=cwd,
                pass_fds=keep,
                start_new_session=True,  # Ctrl-C and Ctrl-Z of the terminal are for muster only
            )
        except OSError as error:
            if error.filename == cwd and cwd != argv[0]:
                raise InvalidRequest(
                    f"cannot change to directory {cwd}: {processes.reason(error)}", "choose another with --cwd"
                ) from None
            hint = "check that it is an executable for this machine"
            if error.errno == errno.EAGAIN:
                error, hint = processes.no_more_processes(), processes.FEWER_PROCESSES
            raise InvalidRequest(f"cannot start {argv[0]}: {processes.reason(error)}", hint) from None
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.stdin, self.stdout, self.stderr = self.process.stdin, self.process.stdout, self.process.stderr
        for file in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(file.fileno(), False)
        super().__init__(node, host, Channel(self.stdout.fileno(), self.stdin.fileno()))
        self.banner: bytearray | None = bytearray()
        """Output before the first frame; None once that has arrived."""
        self.stderr_tail = bytearray()
        """The end of stderr of the program that starts the agent."""
        self.guarded = False
        """True if the child process is the parent of the agent (`agent/guard.py`), not the agent itself."""

    def read(self) -> list[Any] | None:
        """Return the received frames; None at the end of the connection."""
        if self.banner is None:
            return self.channel.read()
        try:
            data = os.read(self.stdout.fileno(), 1 << 18)
        except BlockingIOError:
            return []
        if not data:
            return None
        self.banner += data
        at = self.banner.find(MAGIC)
        if at < 0:
            return []
        data, self.banner = bytes(self.banner[at + len(MAGIC) :]), None
        return self.channel.feed(data)

    def ends_within(self, seconds: float) -> bool:
        """Return whether the child process exits within `seconds`."""
        try:
            self.process.wait(timeout=max(0.1, seconds))
        except subprocess.TimeoutExpired:
            return False
        return True

    def terminate(self) -> None:
        """Send SIGTERM to the child process."""
        self.process.terminate()

    def kill(self) -> None:
        """Kill the child process and its process group: a ProxyCommand outlives its ssh."""
        if self.process.returncode is not None and procfs.stat(self.process.pid) is not None:
            return  # it was collected, and nothing was left of its group: another process has got its pid
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def reap(self) -> None:
        """Wait for the child process, which was killed."""
        self.process.wait()

    def kill_guarded(self) -> bool:
        """Kill only the agent, so that its parent cleans up; return False if there is no guarded agent."""
        pid: int = self.facts.get("pid", 0)
        found = procfs.stat(pid) if self.guarded else None
        return found is not None and found.parent == self.process.pid and processes.send_signal(pid, signal.SIGKILL)

    def drain_stderr(self) -> bool:
        """Read everything available from stderr; return False at its end."""
        try:
            while data := os.read(self.stderr.fileno(), 1 << 16):
                self.stderr_tail += data
                del self.stderr_tail[:-65536]
        except BlockingIOError:
            return True
        return False

    def status(self) -> tuple[int | None, str]:
        """Return the child process's exit code, None if it still runs, and a description."""
        try:
            ends = self.guarded and not self.channel.refused  # otherwise the agent may still run
            code = self.process.wait(timeout=_GUARD if ends else 2)
        except subprocess.TimeoutExpired:
            return None, f"is still running (pid {self.process.pid})"
        return code, f"killed by signal {-code}" if code < 0 else f"exit status {code}"

    def stderr_summary(self, count: int = 3) -> str:
        """Return the last lines of stderr of the program that starts the agent."""
        if not self.stderr.closed:
            self.drain_stderr()
        lines = self.stderr_tail.decode("utf-8", "replace").replace("\r", "").splitlines()
        words = [line.strip() for line in lines if line.strip()]
        return "; ".join(map(safe, words[-count:]))

    def explain_exit(self, run_path: str, python: str, image: str = "") -> str:
        """Return why the connection ended, for users; `image` is that of the container in which Python starts."""
        code, how = self.status()
        if code is None and not self.channel.refused:
            return f"the agent on {self.host} closed its connection, and {how}"
        if self.banner is not None:
            words = self.stderr_summary() or how
            if code == SETUP_FAILED:
                return f"{self.host}: {words}"
            if image:
                return f"cannot start a container of {image} on {self.host}: {words}"
            if is_no_python(words, code):
                return f"cannot start Python on {self.host}: {python} is not a Python interpreter"
            return f"cannot start Python on {self.host} with {python}: {words}"
        if self.channel.refused:
            return f"invalid data from the agent on {self.host}: {safe(self.channel.refused)}"
        if self.broken:
            folder = processes.node_folder(str(run_path), self.host)
            return f"the agent on {self.host} failed: {safe(self.broken)}; see {folder}/agent.log"
        why = f" ({how})" if code else ""  # it may exit with 0 after it was told to end
        return f"the agent on {self.host} exited{why}, and its ranks with it"


class TcpConnection(AgentConnection):
    """A connection made by an agent, which reconnects when it breaks. Clock offsets are relative to node 0."""

    def __init__(self, node: int, host: str, offset: float, facts: Mapping[str, Any]):
        super().__init__(node, host, Channel(keeps=True))
        self.offset = offset
        self.facts.update(facts)
        self.disconnected_at: float | None = None
        """When it broke, in seconds since muster was started; None while connected."""

    def connect(self, met: Met) -> None:
        """Continue over a new connection."""
        os.set_blocking(met.fd, False)
        self.channel.connect(met.fd, os.dup(met.fd), met.frames, met.heard, met.seal)

    def disconnect(self, loop: EventLoop) -> None:
        """Close the connection, and stop watching it in `loop`."""
        loop.remove(self.channel.reading, self.channel.writing)
        os.close(self.channel.reading)
        os.close(self.channel.writing)
        self.channel.disconnect()


_GUARD = 20.0
"""Seconds that the parent of an agent may need on a busy machine to kill what the agent left: 5 s on others
(`processes.kill_descendants`)."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals by which a user, or the program that started muster, ends a run."""


class Agents(NamedTuple):
    """The agents of a run, which are starting."""

    connections: list[ProcessConnection]
    stdin: int | None
    """The agents' descriptor for the stdin that a rank reads; None if no rank does."""


def captured_signals(
    loop: EventLoop, passes: Sequence[str] = PASSES, quits: bool = True, ours: bool = True
) -> CapturedSignals:
    """Return a context that captures muster's signals for a run, including forwarded ones; none unless `ours`.

    `ours` is False if the signals belong to the program that started the run. `quits`: SIGQUIT (Ctrl-\\) stops the run
    gracefully; otherwise it kills muster, as it does torchrun by default. SIGINT and SIGTERM are captured even if they
    are ignored, as in a background job of a script: torchrun handles them there, and ranks, which would inherit that,
    could not be interrupted.
    """
    if not ours:
        return CapturedSignals(loop, ())
    numbers = {*SIGNALS, *(signal.Signals[name] for name in passes)}
    if not quits:
        numbers.discard(signal.SIGQUIT)
    return CapturedSignals(loop, numbers - {signal.SIGHUP} | set(not_ignored(numbers & {signal.SIGHUP})))


def start_agent(
    target: Target, number: int, env: Mapping[str, str], keep: Sequence[int] = (), guarded: bool = False
) -> ProcessConnection:
    """Start the agent of one node, which inherits the descriptors `keep`. `guarded`: see `agent/guard.py`."""
    same = target.transport == "local" and not target.setup and target.python == sys.executable
    link = _start(target, number, env, partial(_agent_source, same), keep, "agent", {"guarded": guarded})
    link.guarded = guarded
    return link


def start_call(target: Target, env: Mapping[str, str], name: str, **args: Any) -> ProcessConnection:
    """Run one of the functions in `agent/calls.py` on a host."""
    return _start(target, 0, env, _calls_source, (), name, args)


# made once for all hosts: each time takes 10 ms of CPU time, while nothing else can start
_agent_source, _calls_source = cache(agent_source), cache(calls_source)


def _start(
    target: Target,
    number: int,
    env: Mapping[str, str],
    source: Callable[[], bytes],
    keep: Sequence[int],
    name: str,
    args: Mapping[str, Any],
) -> ProcessConnection:
    transport = TRANSPORTS[target.transport]
    link = ProcessConnection(number, target.host, transport.argv(target), env, target.cwd, keep)
    link.channel.send(transport.stdin(target) + source())  # made while the other process starts, or logs in
    link.channel.send(encode_frame("call", name=name, args=args))
    link.channel.flush()
    return link


def start_agents(job: Job, nodes: Sequence[Node], env: Mapping[str, str], stdin: int | None = None) -> Agents:
    """Start the agents of all local nodes; they load while muster prepares the run.

    `stdin` is a descriptor for the rank that reads stdin, as if it were started from there.
    """
    given = os.dup(stdin) if stdin is not None else None
    keep = [] if given is None else [given]
    try:
        links = [start_agent(target_of(job, node.host), node.number, env, keep, guarded=True) for node in nodes]
    finally:
        for descriptor in keep:
            os.close(descriptor)
    return Agents(links, given)


def end_links(links: Sequence[ProcessConnection], patience: float = 5.0) -> None:
    """Close connections, and wait `patience` seconds for their child processes to exit before killing them."""
    for link in links:
        link.stdin.close()
    deadline = time.monotonic() + patience
    for link in links:
        if not link.ends_within(deadline - time.monotonic()) and not (link.kill_guarded() and link.ends_within(_GUARD)):
            link.kill()
            link.reap()
        link.stdout.close()
        link.stderr.close()
