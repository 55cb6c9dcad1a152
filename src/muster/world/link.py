"""The connection to the agent of one node: a child process here, whose stdin and stdout carry frames."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from muster.agent import procfs, system
from muster.agent.boot import SETUP_FAILED, agent_source, calls_source
from muster.agent.eventloop import EventLoop
from muster.agent.protocol import MAGIC, pack
from muster.agent.signals import CapturedSignals, not_ignored
from muster.agent.wire import Wire
from muster.errors import Impossible
from muster.model import PASSES, Job, Node
from muster.places import TRANSPORTS
from muster.places.target import Target, target_of
from muster.printable import line as safe

if TYPE_CHECKING:
    from muster.agent.dial import Met


class Link:
    """The connection to the agent of one node."""

    def __init__(self, node: int, host: str, wire: Wire):
        self.node, self.host, self.wire = node, host, wire
        self.offset = 0.0
        """Its clock (monotonic) minus this machine's, in seconds."""
        self.facts: dict[str, Any] = {}
        """What it told of itself."""
        self.open = True
        self.broken = ""
        """The last line of what an agent that failed has said."""
        self.met_limit = False
        """It failed because its user may have no more processes."""


class ChildLink(Link):
    """A child process here, whose stdin and stdout carry frames."""

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
                start_new_session=True,  # Ctrl-C and Ctrl-Z of the terminal are for muster alone
            )
        except OSError as error:
            if error.filename == cwd and cwd != argv[0]:
                raise Impossible(
                    f"{cwd} cannot be entered: {system.reason(error)}", "choose another by --cwd"
                ) from None
            hint = "is it a program for this machine?"
            if error.errno == errno.EAGAIN:
                error, hint = system.no_more_processes(), system.FEWER_PROCESSES
            raise Impossible(f"{argv[0]} could not be started: {system.reason(error)}", hint) from None
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.stdin, self.stdout, self.stderr = self.process.stdin, self.process.stdout, self.process.stderr
        for file in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(file.fileno(), False)
        super().__init__(node, host, Wire(self.stdout.fileno(), self.stdin.fileno()))
        self.preface: bytearray | None = bytearray()
        """What came before the first frame; None once it has come."""
        self.complaint = bytearray()
        """What the agent's way there said on stderr."""
        self.guarded = False
        """The child process is the parent of the agent (`agent/guard.py`), not the agent itself."""

    def read(self) -> list[Any] | None:
        """The frames that have come; None at the end of the connection."""
        if self.preface is None:
            return self.wire.read()
        try:
            data = os.read(self.stdout.fileno(), 1 << 18)
        except BlockingIOError:
            return []
        if not data:
            return None
        self.preface += data
        at = self.preface.find(MAGIC)
        if at < 0:
            return []
        data, self.preface = bytes(self.preface[at + len(MAGIC) :]), None
        return self.wire.feed(data)

    def ends_within(self, seconds: float) -> bool:
        """The child process has ended, in so many seconds."""
        try:
            self.process.wait(timeout=max(0.1, seconds))
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """End the child process, and what it started to get there (a ProxyCommand outlives its ssh)."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def kill_guarded(self) -> bool:
        """End the agent alone, so that its parent ends what it leaves; False where there is no such agent."""
        pid: int = self.facts.get("pid", 0)
        found = procfs.stat(pid) if self.guarded else None
        return found is not None and found.parent == self.process.pid and system.send(pid, signal.SIGKILL)

    def listen(self) -> bool:
        """Take all that has come on stderr; False at its end."""
        try:
            while data := os.read(self.stderr.fileno(), 1 << 16):
                self.complaint += data
                del self.complaint[:-65536]
        except BlockingIOError:
            return True
        return False

    def status(self) -> tuple[int | None, str]:
        """How the child process ended, as a number and in words; None when it still runs."""
        try:
            code = self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            return None, f"still runs (pid {self.process.pid})"
        return code, f"killed by signal {-code}" if code < 0 else f"exit status {code}"

    def last_words(self, count: int = 3) -> str:
        """The last lines on stderr of what was to start the agent."""
        if not self.stderr.closed:
            self.listen()
        words = self.complaint.decode("utf-8", "replace").replace("\r", "").strip().splitlines()
        return "; ".join(map(safe, words[-count:]))

    def why_lost(self, run_path: str, python: str) -> str:
        """Why the connection ended, for a person."""
        code, how = self.status()
        if code is None and not self.wire.refused:
            return f"the agent on {self.host} closed its connection and {how}"
        if self.preface is not None:
            words = self.last_words() or how
            if code == SETUP_FAILED:
                return f"{self.host}: {words}"
            return f"the agent on {self.host} could not be started by {python}: {words}"
        if self.wire.refused:
            return f"the agent on {self.host} was not understood: {safe(self.wire.refused)}"
        if self.broken:
            folder = system.node_folder(str(run_path), self.host)
            return f"the agent on {self.host} failed: {safe(self.broken)}; see {folder}/agent.log"
        return f"the agent on {self.host} ended ({how}), and its ranks with it"


class FarLink(Link):
    """A connection that an agent makes, and makes again when it breaks. Offsets are to the clock of node 0."""

    def __init__(self, node: int, host: str, offset: float, facts: Mapping[str, Any]):
        super().__init__(node, host, Wire(keeps=True))
        self.offset = offset
        self.facts.update(facts)
        self.parted_at: float | None = None
        """When it broke, in seconds since muster was started; None while it holds."""

    def connect(self, met: Met) -> None:
        """Go on over a new connection."""
        os.set_blocking(met.fd, False)
        self.wire.connect(met.fd, os.dup(met.fd), met.frames, met.heard, met.seal)

    def disconnect(self, loop: EventLoop) -> None:
        """Close the connection, which this loop has watched."""
        loop.remove(self.wire.reading, self.wire.writing)
        os.close(self.wire.reading)
        os.close(self.wire.writing)
        self.wire.disconnect()


_GUARD = 7.0
"""Seconds that the parent of an agent needs to end what that has left; see `system.end_family`."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""What a person, or whoever started muster, sends it to end a run."""


class Agents(NamedTuple):
    """The agents of a run, on their way."""

    links: list[ChildLink]
    stdin: int | None
    """The number under which the agents have the stdin that a rank reads; None where none does."""


def captured_signals(
    loop: EventLoop, passes: Sequence[str] = PASSES, quits: bool = True, ours: bool = True
) -> CapturedSignals:
    """A context in which a run is told of the signals that muster gets, those that are passed on too; of none where
    they are not `ours`, but those of the program that has started the run.

    `quits`: SIGQUIT (Ctrl-\\) ends the run in order; else it kills muster, as it does torchrun where it is not handled.

    SIGINT and SIGTERM also where they are ignored, as in a background job of a script: torchrun handles them there, and
    ranks, which would inherit that, could not be interrupted.
    """
    if not ours:
        return CapturedSignals(loop, ())
    numbers = {*SIGNALS, *(signal.Signals[name] for name in passes)}
    if not quits:
        numbers.discard(signal.SIGQUIT)
    return CapturedSignals(loop, numbers - {signal.SIGHUP} | set(not_ignored(numbers & {signal.SIGHUP})))


def start_agent(
    target: Target, number: int, env: Mapping[str, str], keep: Sequence[int] = (), guarded: bool = False
) -> ChildLink:
    """Start the agent of one node, and send it its text; it inherits `keep`. `guarded`: see `agent/guard.py`."""
    link = _start(target, number, env, agent_source(), keep, "agent", {"guarded": guarded})
    link.guarded = guarded
    return link


def start_call(target: Target, env: Mapping[str, str], name: str, **args: Any) -> ChildLink:
    """Have one thing done on a host, of those in `agent/calls.py`."""
    return _start(target, 0, env, calls_source(), (), name, args)


def _start(
    target: Target,
    number: int,
    env: Mapping[str, str],
    source: bytes,
    keep: Sequence[int],
    name: str,
    args: Mapping[str, Any],
) -> ChildLink:
    transport = TRANSPORTS[target.place]
    link = ChildLink(number, target.host, transport.argv(target), env, target.cwd, keep)
    link.wire.put(transport.stdin(target) + source)
    link.wire.put(pack("call", name=name, args=args))
    link.wire.flush()
    return link


def start_agents(job: Job, nodes: Sequence[Node], env: Mapping[str, str], stdin: int | None = None) -> Agents:
    """Start the agents of all nodes here; they come to life while muster makes itself ready.

    `stdin` is a descriptor that a rank reads, as if it had been started from where that leads.
    """
    given = os.dup(stdin) if stdin is not None else None
    keep = [] if given is None else [given]
    try:
        links = [start_agent(target_of(job, node.host), node.number, env, keep, guarded=True) for node in nodes]
    finally:
        for descriptor in keep:
            os.close(descriptor)
    return Agents(links, given)


def end_links(links: Sequence[ChildLink], patience: float = 5.0) -> None:
    """Close connections, and see the child processes behind them end."""
    for link in links:
        link.stdin.close()
    deadline = time.monotonic() + patience
    for link in links:
        if not link.ends_within(deadline - time.monotonic()) and not (link.kill_guarded() and link.ends_within(_GUARD)):
            link.kill()
            link.process.wait()
        link.stdout.close()
        link.stderr.close()
