"""The agent: one small process per node that starts ranks on request, owns their logs and their end, and reports.

It decides nothing about the job: that is up to the controller at the other end of its stdin and stdout. It decides one
thing alone: when the controller is gone and the lease has expired, it ends its ranks.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from muster.agent.cleanup import Cleanup
from muster.agent.context import NodeRun
from muster.agent.external import free_port
from muster.agent.links import RankLinks, put_files_there
from muster.agent.local_requests import LocalRequests, open_sockets
from muster.agent.log_streaming import LogStreamer
from muster.agent.rank_environment import Late, word
from muster.agent.ranks import RankProcesses
from muster.agent.survey import Survey
from muster.linux import processes, run_mark
from muster.linux.eventloop import EventLoop, Timer
from muster.linux.signals import CapturedSignals, not_ignored
from muster.protocol import frames, local_sockets
from muster.protocol.channel import Channel
from muster.protocol.frames import MAGIC, VERSION, Dispatcher, Refused, encode_frame

if TYPE_CHECKING:
    from muster.agent.controller_process import ControllerProcess
    from muster.agent.dialer import ControllerDialer, Met
    from muster.agent.ranks import Hosting
    from muster.agent.store_relay import StoreRelay
    from muster.protocol.handshake import Terms

_LAST_WISH = 3.0
"""Seconds that ranks have to exit after the connection to the controller is lost."""

_STRANGER = 10.0
"""Seconds without a controller after which an agent exits that has never been connected to one. A short lease is no
measure of how long a start takes."""

_STARTING = 120.0
"""Seconds for the first controller to answer while its port is open: on a busy host it starts slowly."""

_NEWS = (
    *("ready", "store_opened", "ranks_started", "rank_registered", "rank_exited", "launcher_exited", "store_exited"),
    *("start_failed", "cleaned_up", "provenance"),
)
"""Kinds of messages that are repeated to a new controller."""

_INSPECTED_WITHIN = 0.8
"""Seconds within which ranks must answer an inspection."""

_BEFORE_SIGNAL = 1.0
"""The same before they are terminated: nobody waits longer for the end."""

_TELLS_WITHIN = 5.0
"""Seconds for the controller to take in why this agent fails: it may be stopped, and the ranks must end."""

_LISTENS = 0.2
"""Seconds between checks whether a newly started rank handles a signal."""


def _epoch() -> float:
    """Return the time of day minus the monotonic clock."""
    return time.time() - time.monotonic()


class Holding(Protocol):
    """What the agent of a session has beside other agents (`held.py`)."""

    def prepare(self) -> None:
        """Start the preloaded interpreter."""

    def start_run(self, payload: bytes, run_id: str, sealed: bool, port: int, nodes: int) -> None:
        """Host a run."""

    def tell_run(self) -> None:
        """Tell a new controller which run is here."""

    def stop_run(self, by: str, cause: str, within: float) -> None:
        """End the run that is here, for a user or because the job ends."""

    def warn(self, number: int, cause: str) -> list[int]:
        """Send a signal to the ranks that handle it, and return them."""

    def tell(self, text: str) -> None:
        """Show the user of the run a message."""

    def turn(self) -> None:
        """Continue after events."""

    def end(self) -> None:
        """End everything that waits for runs."""

    @property
    def busy(self) -> bool:
        """Whether a run is still ending here."""


class Agent:
    """The agent of one node, which serves the controller's requests."""

    run_dir: str
    run_id: str
    sockets: local_sockets.Sockets
    node: int
    folder: str
    """Directory for the files of this agent; `on_configure` sets these."""
    ranks: RankProcesses
    """The processes of the ranks; none until `prepared`."""
    links: RankLinks

    def __init__(self, loop: EventLoop, hook: Mapping[str, str | bytes]) -> None:
        self.loop, self.hook = loop, hook
        self.wire = Channel()
        self.prepared = False
        self.logs = LogStreamer(loop, self.emit, self.complain)
        self.leaving = self.forget = False
        self.cleanup: Cleanup | None = None
        """There is none until `prepared`."""
        self.survey = Survey(self.emit, loop)
        self.own_run_dir = False
        """True if the run directory belongs to this node alone and is deleted once the controller has everything."""
        self.stays = False
        """True if it is kept, because its contents could not be kept elsewhere."""
        self.is_lost = False
        self.move: tuple[dict[str, Any], bytes] | None = None
        """The request to detach, once there is one: where the controller will be; see `detach.py`."""
        self.dialer: ControllerDialer | None = None
        """The connection to a controller on another node."""
        self.controller: ControllerProcess | None = None
        """The parent of the controller on this node."""
        self.lease = 0.0
        self.disconnected_for = 0.0
        """`lease`: seconds that the ranks may continue without a controller; `disconnected_for`: seconds so far."""
        self._alone: Timer | None = None
        """The next time at which the time without a controller is counted."""
        self.starting_for = 0.0
        """Seconds for which a controller that has not answered yet was connected."""
        self.replay: dict[str, bytes] = {}
        """The last frame of each kind in `_NEWS`, for a new controller."""
        self.listened = -1
        """The last attempt for which a port was opened."""
        self.signals = 0
        """Number of requests of this attempt to signal ranks."""
        self.introduction: dict[str, Any] = {}
        """The facts that this agent collected by itself, for the controller; see `join.py`."""
        self.scheduled = False
        """True if a scheduler started this agent and ends it."""
        self.stops: set[int] = {signal.SIGTERM}
        """The signals with which it is told to exit, or with which a scheduler announces the end of the job."""
        self.places: dict[str, dict[str, Any]] = {}
        """On a spare host: the fields of `configure` for each node whose place it may take."""
        self.met_controller = False
        """True once this agent has been connected to a controller since it detached."""
        own = {**frames.handlers(self, "on_"), **frames.handlers(self.survey, "on_")}
        self.dispatch = Dispatcher(own, frames.named(own), self.complain)
        """Handlers of messages from the controller."""
        self.signal_before: Callable[[], object] | None = None
        """Sends a signal that waits for an inspection; the next signal does not wait."""
        self.trace = False
        """True if messages are traced (`protocol/trace.py`)."""
        self.held: Holding | None = None
        """What it has as the agent of a session."""
        self.start_holding: Callable[[Agent], Holding] | None = None
        """Makes it the agent of a session; set where that is possible."""
        self.hosting: Hosting | None = None
        """What the agent of a session shares with this one, which is that of a run there."""
        self.inherited: Mapping[str, str] = os.environ
        """The environment that ranks inherit."""
        self._warnings: dict[int, Timer] = {}
        """By signal: the next look for ranks that handle it since they were warned."""
        self.visitors: LocalRequests | None = None
        self.relay: StoreRelay | None = None
        """Relays connections to the store, if its port must not be reachable from other machines."""

    # ---- the loop ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Prepare this process to have children."""
        processes.become_subreaper()
        signals = CapturedSignals(self.loop, not_ignored())
        signals.start()  # stays active until the process exits
        signals.handle(self.signalled)

    def hello(self) -> None:
        """Send the greeting over stdin and stdout to the process that started this agent."""
        os.set_blocking(0, False)
        os.set_blocking(1, False)
        self.wire.connect(0, 1)
        self.loop.add_reader(0, self.readable)
        self.wire.out += MAGIC
        self.emit(
            "hello",
            version=VERSION,
            pid=os.getpid(),
            python=".".join(map(str, sys.version_info[:3])),
            executable=sys.executable,
            host=socket.gethostname(),
        )

    def run(self) -> None:
        """Serve until asked to exit or to detach, or until the connection is lost and the ranks have exited."""
        while True:
            self.loop.run_once()
            self.logs.send()
            if self.held is not None:
                self.held.turn()
            if self.move is not None and not self.wire.out:
                return
            if self.leaving and self.wire.idle and self.logs.sent and self.logs.kept:
                if self.held is not None and self.held.busy:
                    continue
                self.forget_run_dir()
                return

    def forget_run_dir(self) -> None:
        """Delete the run directory of this node, if everything in it was copied."""
        if self.forget:
            import shutil

            put_files_there(self.run_dir)
            shutil.rmtree(self.run_dir, ignore_errors=True)

    def emit(self, kind: str, payload: bytes = b"", **fields: Any) -> None:
        """Send a message to the controller, with this machine's monotonic time."""
        frame = encode_frame(kind, payload, t=time.monotonic(), **fields)
        if kind in _NEWS:
            self.replay[f"{kind} {fields['rank']}" if kind in ("rank_registered", "rank_exited") else kind] = frame
        self.wire.send(frame)
        self.flush()

    def flush(self) -> None:
        """Write what the connection accepts now."""
        self.wire.pump(self.loop, self.flush)

    def readable(self) -> None:
        """Handle what the controller sent."""
        self.take(self.wire.read())

    def take(self, frames: Iterable[tuple[dict[str, Any], bytes]] | None) -> None:
        """Handle these frames; None if the connection was closed or has to be."""
        if frames is None:
            self.disconnected()
        else:
            self.handle(frames)

    def handle(self, frames: Iterable[tuple[dict[str, Any], bytes]]) -> None:
        """Handle these frames."""
        for fields, payload in frames:
            try:
                self.dispatch(fields, payload)
            except Refused as error:
                self.complain(f"skipped an invalid message from the controller: {error}")
        self.flush()

    # ---- the controller on another node -----------------------------------------------------------------------------

    def dial(self, address: str, port: int, terms: Terms, node: int) -> None:
        """Connect to the controller on another node, now and whenever the connection breaks."""
        from muster.agent.dialer import ControllerDialer

        self.dialer = ControllerDialer(
            self.loop, address, port, terms, node, lambda: self.wire.received, self.connected, self.complain
        )
        self.dialer.dial()
        self.wait_alone(self.loop.time())

    def connected(self, met: Met, same: bool) -> None:
        """Continue on a new connection: to the `same` controller, or to a new one."""
        if not same:
            self.wire.reset()
            self.logs.readers.clear()
        os.set_blocking(met.fd, False)
        self.wire.connect(met.fd, os.dup(met.fd), met.frames, met.heard if same else 0, met.seal)
        self.disconnected_for, self.met_controller = 0.0, True
        self.loop.add_reader(met.fd, self.readable)
        if not same:
            if self.prepared or self.places:
                started = self.ranks.attempt if self.prepared and self.ranks.folder else -1
                if self.held is not None:
                    self.held.tell_run()
                self.emit("agent_state", started=started, listened=self.listened, signals=self.signals)
            else:
                self.emit("facts", **self.introduction)
            for frame in self.replay.values():
                self.wire.send(frame)
            if self.relay is not None:
                self.relay.again()
        self.take(self.wire.feed(b""))  # what arrived together with the end of the handshake

    def supervisor_started(self, pid: int) -> None:
        """Record that the controller runs on this node."""
        self.ranks.names[pid] = "supervisor"

    def disconnected(self) -> None:
        """Handle the end of the connection."""
        if self.wire.refused:
            self.complain(f"closed the connection: {self.wire.refused}")
        self.loop.remove_reader(self.wire.reading)
        if self.leaving:
            self.forget = self.forget and self.logs.sent and self.logs.kept
            self.logs.finish(drain=False)
            self.wire.reset()
        if self.dialer is None and self.controller is None:
            self.wire.out.clear()
            self.lost("connection to muster lost")
            return
        self.loop.remove_writer(self.wire.writing)
        os.close(self.wire.reading)
        os.close(self.wire.writing)
        self.wire.disconnect()
        if self.leaving:
            return
        if self.dialer is not None:
            self.dialer.dial()
            self.wait_alone(self.loop.time())
        elif self.controller is not None:
            self.controller.again()

    def wait_alone(self, since: float) -> None:
        """Count the time without a controller while this process ran; end the ranks once it exceeds the lease."""
        if self._alone is not None:
            self._alone.cancel()  # that of an earlier connection, which broke less than a second ago
        if self.wire.connected or self.leaving:
            return
        now = self.loop.time()
        elapsed = min(now - since, 2.0)
        lease = self.lease if self.met_controller else _STRANGER
        if not self.met_controller and self.dialer is not None and self.dialer.reached:
            self.starting_for += elapsed
        else:
            self.disconnected_for += elapsed
        if self.disconnected_for >= lease:
            self.lost(f"no connection to the controller for {lease:g}s")
        elif self.starting_for >= _STARTING:
            self.lost(f"the controller did not answer within {_STARTING:g}s")
        else:
            self._alone = self.loop.call_later(1.0, lambda: self.wait_alone(now))

    def terminated(self) -> None:
        """Handle one of `stops`: from a scheduler it announces the end of the job, and the controller decides."""
        if self.scheduled and not self.is_lost:
            self.emit("scheduler_signal")
            if self.prepared and not self.wire.connected:
                # the controller has probably been killed, and the scheduler's next signal is SIGKILL
                self.ranks.remove_temporary()
        else:
            self.lost("the agent received SIGTERM")

    def signalled(self, numbers: Sequence[int]) -> None:
        """Handle signals: collect exited children, and forward to the ranks what a scheduler sends to this process."""
        if self.stops.intersection(numbers):
            self.terminated()
        if self.prepared:
            self.ranks.reap()
        for number in sorted(set(numbers) - self.stops - {signal.SIGCHLD}):
            if self.scheduled and self.prepared and not self.ranks.tasks:
                self.on_forward_signal(b"", number)

    # ---- requests of the controller ---------------------------------------------------------------------------------

    def on_detach(self, payload: bytes, **where: Any) -> None:
        """Leave the connection that started this agent, for a controller on a node."""
        self.move = (where, payload)

    def on_configure(
        self,
        payload: bytes,
        run_dir: str,
        run_id: str,
        token: str,
        node: int,
        host: str,
        commands: list[dict[str, Any]],
        environment: Mapping[str, Any],
        preload: Iterable[str],
        stdin_rank: int | None,
        floor: str,
        brings: Mapping[str, str],
        want: bool | list[int] = False,
        own_run_dir: bool = False,
        path_first: bool = False,
        rank_command: dict[str, Any] | None = None,
        external_rendezvous: bool = False,
        stdin: int | None = None,
        log_dir: str = "",
        clock: float | None = None,
        terminal: Mapping[str, Any] | None = None,
        trace: bool = False,
        script: str = "",
        hang_timeout: float = 0.0,
        hang_from_start: bool = False,
        last_imports: Mapping[str, Any] | None = None,
        hold: bool = False,
    ) -> None:
        """Prepare to start ranks: directories, the site hook, the fork server.

        `environment`: the plan's settings for the variables of ranks; its `ranks` are those of each rank. `token` names
        the sockets of this run (`protocol/local_sockets.py`). `brings`: scripts by the word that stands for them on
        command lines. `own_run_dir`: that directory belongs to this node alone. `stdin`: a descriptor of this process,
        from which the rank `stdin_rank` reads. `path_first`: the directory of this Python is put first on PATH, as if
        its environment were activated. `log_dir`: where the logs get torchrun's names; empty for nowhere. `clock`:
        seconds to add to this machine's monotonic clock for the time of day; None if it needs none. `terminal`: rows
        and columns of each rank's pseudo-terminal; None for none. `trace`: trace messages here (`protocol/trace.py`).
        `script`: the script of the ranks; empty if they run something else.
        `last_imports`: what the last run of the script imported (`LastImports`); None to record nothing.
        `hang_timeout`: report when ranks make no progress, with this time in view; 0 for never. `hang_from_start`: they
        are watched even if torch in none of them has a process group. `hold`: host runs instead of
        starting ranks; see `held.py`.
        """
        self.trace = trace
        if self.survey.probe_port is not None and self.controller is None:
            self.survey.probe_port.close()
        self.run_dir, self.node, self.own_run_dir = run_dir, node, own_run_dir
        if self.dialer is not None and not self.places:
            self.dialer.node = node  # a spare keeps its number, also in the place of a node
        if terminal is not None:
            self.logs.terminal = {"rows": terminal["rows"], "columns": terminal["columns"]}
        if clock is not None:
            self.logs.clock = lambda: time.monotonic() + clock
        if want:
            self.logs.read("", want, {}, None)
        if path_first:
            self.put_first_on_path(os.path.dirname(sys.executable))
        self.folder = self.logs.node_folder = processes.node_folder(run_dir, host)
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        if self.hosting is None or own_run_dir:  # the client of a run on a session has just written to it
            processes.try_to_write(self.folder)
        self.open_log()
        self.logs.with_results = own_run_dir and os.path.exists(os.path.join(run_dir, "function"))
        self.links = RankLinks(log_dir, self.folder, lambda text: self.emit("note", text=text))
        self.run_id, self.sockets = run_id, local_sockets.Sockets(run_id, token)
        local_sockets.keep(run_dir, token)
        visitors = open_sockets(self.sockets, rank_command["token"] if rank_command is not None else None, self.emit)
        if visitors and self.hosting is None:  # `muster clean` sees by these sockets that the run is alive
            processes.mark_of_children = run_mark.mark_of_run(run_id)
        places = {word: self.write_bundled(os.path.basename(word), text) for word, text in brings.items()}
        for command in (*commands, *([rank_command] if rank_command is not None else [])):
            command["argv"] = [places.get(word, word) if isinstance(word, str) else word for word in command["argv"]]
        run = NodeRun(self.loop, self.emit, self.complain, trace, run_id, node, self.folder, self.logs, self.links)
        self.ranks = RankProcesses(
            *(run, commands, environment, preload, stdin_rank, self.hook, floor, rank_command, external_rendezvous),
            *(stdin, script, last_imports, self.inherited, self.hosting),
        )
        if hang_timeout:
            self.ranks.watch_progress(hang_timeout, hang_from_start)
        self.cleanup = Cleanup(self.ranks)
        if visitors:
            self.visitors = LocalRequests(run, self.ranks, self.lost, visitors)
        self.prepared = True
        if hold:
            assert self.start_holding is not None
            self.held = self.start_holding(self)
            self.held.prepare()
        else:
            self.ranks.prepare()

    def open_log(self) -> None:
        """Send what this process writes to stderr to agent.log."""
        log = os.open(os.path.join(self.folder, "agent.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 2)
        os.close(log)

    def put_first_on_path(self, folder: str) -> None:
        """Put a directory first on PATH, for all that is started here."""
        os.environ["PATH"] = folder + os.pathsep + os.environ.get("PATH", os.defpath)

    def on_start_run(self, payload: bytes, run_id: str, sealed: bool, port: int, nodes: int) -> None:
        """Host a run, as the agent of a session."""
        if self.held is not None:
            self.held.start_run(payload, run_id, sealed, port, nodes)

    def on_stop_run(self, payload: bytes, by: str, cause: str = "", within: float = 0.0) -> None:
        """End the run that is here, as the agent of a session."""
        if self.held is not None:
            self.held.stop_run(by, cause, within)

    def on_stand_by(
        self,
        payload: bytes,
        run_dir: str,
        run_id: str,
        token: str,
        node: int,
        parts: dict[str, dict[str, Any]],
        own_run_dir: bool = False,
    ) -> None:
        """Wait to take the place of a node. `parts`: the fields of `configure` for each node, by its number."""
        if self.survey.probe_port is not None:
            self.survey.probe_port.close()
        self.run_dir, self.run_id, self.node, self.own_run_dir = run_dir, run_id, node, own_run_dir
        self.places = parts
        if self.dialer is not None:
            self.dialer.node = node

    def on_take_place(self, payload: bytes, node: int) -> None:
        """Take the place of a node; a new controller repeats the request."""
        if not self.prepared:
            self.on_configure(b"", **self.places[str(node)])

    def write_bundled(self, name: str, text: str) -> str:
        """Write a script that came with the job, and return its path."""
        folder = os.path.join(self.folder, "brought")  # alone there: its directory is the first on sys.path
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with open(os.path.join(folder, name), "w") as file:
            file.write(text)
        return file.name

    def on_open_store(self, payload: bytes, attempt: int, host: str, free: bool = False, relays: bool = False) -> None:
        """Open the port of this attempt's store. `free`: find another port, for the programs of a role. `relays`: ranks
        of other nodes connect to it through the agents."""
        try:
            port = self.ranks.listen(host)
        except OSError as error:
            self.emit("start_failed", what="port", text=processes.reason(error))
            return
        self.listened = attempt
        if relays:
            self.store_relay().serve(attempt, port)
        if free:
            other = free_port(f"{self.run_id} {self.node} {attempt}")
            self.emit("store_opened", attempt=attempt, port=port, free=other)
        else:
            self.emit("store_opened", attempt=attempt, port=port)

    def store_relay(self) -> StoreRelay:
        """Return what relays connections to the store."""
        if self.relay is None:
            from muster.agent.store_relay import StoreRelay  # imported late: only `--rendezvous` needs it

            self.relay = StoreRelay(self.loop, self.emit, self.complain)
        return self.relay

    def on_relay(self, payload: bytes, attempt: int, node: int, number: int, offset: int, last: bool) -> None:
        """Take bytes of a connection to the store from another node."""
        self.store_relay().relayed(attempt, node, number, offset, payload, last)

    def on_relay_taken(self, payload: bytes, attempt: int, node: int, number: int, upto: int) -> None:
        """Handle an acknowledgement: another node has written the first `upto` bytes of such a connection."""
        self.store_relay().taken(attempt, node, number, upto)

    def on_relay_end(self, payload: bytes, attempt: int, node: int, number: int) -> None:
        """Handle that such a connection is gone at its other end."""
        self.store_relay().ended(attempt, node, number)

    def on_start_ranks(self, payload: bytes, attempt: int, late: Late, store_node: int | None = None) -> None:
        """Start all ranks of this node. `late`: values by name that were not known to the plan. `store_node`: the node
        of the store, to which this one relays the connections of its ranks."""
        if store_node is not None:
            try:
                port = self.store_relay().listen(attempt, store_node, int(word({"late": "MASTER_PORT"}, late)))
            except OSError as error:
                self.emit("start_failed", what="port", text=processes.reason(error))
                return
            late = {**late, "MASTER_PORT": str(port)}
        for name in [name for name in self.replay if name != "ready" and name != "store_opened"]:
            del self.replay[name]
        folder = os.path.join(self.run_dir, f"attempt_{attempt}")
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        except OSError as error:
            self.complain(f"{folder}: {error.strerror}")  # ranks run without it; see `log_overflow.py`
        self.signals = 0
        self.logs.follow(attempt, folder, self.ranks.ranks)
        self.links.begin(attempt, folder)
        self.ranks.start(attempt, folder, late)

    def on_signal_ranks(
        self,
        payload: bytes,
        number: int,
        ranks: Iterable[int],
        launchers: bool = False,
        inspect: int | None = None,
    ) -> None:
        """Forward a signal to these ranks, and to the external `launchers`, if there are any.

        `inspect`: first report what all ranks are doing, in answer to the request of this number.
        """
        self.signals += 1
        before, self.signal_before = self.signal_before, None
        if before is not None:
            before()

        def send() -> None:
            if self.prepared:
                self.ranks.signal(number, ranks)
            if self.prepared and launchers and self.ranks.external is not None:
                self.ranks.external.signal_launchers(number)

        if inspect is None or not self.prepared:
            send()
            return
        self.signal_before = send

        def inspected(found: list[dict[str, Any]]) -> None:
            self.emit("rank_inspections", number=inspect, inspections=found, epoch=_epoch())
            if self.signal_before is send:
                self.signal_before = None
                send()

        self.ranks.tell_inspections(None, inspected, _BEFORE_SIGNAL)

    def on_exec(self, payload: bytes, number: int, words: list[str], env: Mapping[str, str], by: int) -> None:
        """Run a command for the launcher of another node."""
        if self.prepared and self.ranks.external is not None:
            self.ranks.external.exec_here(number, words, env, by)

    def on_exec_result(self, payload: bytes, number: int, code: int) -> None:
        """Handle the exit of a command that a launcher here ran on another node."""
        if self.prepared and self.ranks.external is not None:
            self.ranks.external.on_exec_result(number, code)

    def on_resize(self, payload: bytes, rows: int, columns: int) -> None:
        """Change the size of the ranks' pseudo-terminals."""
        self.logs.resize(rows, columns)
        if self.prepared:
            for pid in self.ranks.pids.values():
                processes.send_signal(pid, signal.SIGWINCH)  # its default action is to ignore it

    def on_forward_signal(self, payload: bytes, number: int) -> None:
        """Forward a signal now to the ranks that handle it, and report which they are."""
        self.emit("signal_forwarded", number=number, ranks=self.ranks.warn(number, again=True) if self.prepared else [])

    def on_warn_preemption(self, payload: bytes, name: str, cause: str = "", text: str = "") -> None:
        """Send a signal (`USR1`) to the ranks that handle it, and report which they are.

        A rank that has just started gets it once it has installed a handler. `cause`, `text`: why, for the run on a
        session.
        """
        if self.held is not None:
            self.held.tell(text)
        number = signal.Signals[f"SIG{name}"]
        if number in self._warnings:
            self._warnings[number].cancel()  # one that continues is enough
        self._warn(number, None, cause)

    def _warn(self, number: int, before: set[int] | None, cause: str) -> None:
        if self.leaving:
            return
        if self.held is not None:
            listening = set(self.held.warn(number, cause))
        else:
            listening = set(self.ranks.warn(number)) if self.prepared else set()
        if before is None or listening - before:
            self.emit("preemption_handlers", ranks=sorted(listening))
        again = partial(self._warn, number, listening | (before or set()), cause)
        self._warnings[number] = self.loop.call_later(_LISTENS, again)

    def on_clean_up(self, payload: bytes, patience: float, well: bool = True) -> None:
        """End what is left of the attempt; processes that ranks left behind have `patience` seconds to exit by
        themselves.

        `well`: no rank has failed, so an external launcher exits by itself.
        """
        if self.cleanup is None:
            self.emit("cleaned_up", ended=[], left=[])
            return
        self.replay.pop("cleaned_up", None)
        if self.relay is not None:
            self.relay.end()
        self.cleanup.begin(patience, well)

    def on_stdin(self, payload: bytes, at: int, end: bool) -> None:
        """Forward the terminal's input to the rank that reads it."""
        self.ranks.stdin.write(payload, at, end)

    def on_bye(self, payload: bytes, drain: bool = True) -> None:
        """Send the rest of the logs, and exit."""
        if self.held is not None:
            self.held.end()
        if self.prepared:
            self.ranks.close()
        self.logs.finish(drain)
        self.leaving = True
        self.forget = self.own_run_dir and drain and not self.stays

    def on_keep_run_dir(self, payload: bytes) -> None:
        """Keep the run directory of this node: something could not be copied."""
        self.stays, self.forget = True, False

    def on_subscribe(
        self,
        payload: bytes,
        reader: str,
        want: bool | list[int],
        offsets: Mapping[str, int],
        tail: int | None,
    ) -> None:
        """Start sending output to a reader, from these offsets on."""
        self.logs.read(reader, want, offsets, tail)

    def on_unsubscribe(self, payload: bytes, reader: str) -> None:
        """Stop sending output to a reader."""
        self.logs.readers.pop(reader, None)

    def on_credit(self, payload: bytes, count: int, reader: str = "") -> None:
        """Note that a reader has processed so many bytes of output and accepts more."""
        self.logs.acknowledge(reader, count)

    def on_get_stacks(self, payload: bytes, ranks: Collection[int] | None, number: int) -> None:
        """Report the current Python stacks of these ranks."""
        self.ranks.tell_stacks(
            ranks, lambda texts, mute: self.emit("rank_stacks", number=number, texts=texts, mute=mute)
        )

    def on_get_inspections(self, payload: bytes, ranks: Collection[int] | None, number: int) -> None:
        """Report what these ranks are doing."""

        def tell(found: list[dict[str, Any]]) -> None:
            self.emit("rank_inspections", number=number, inspections=found, epoch=_epoch())

        if self.prepared:
            self.ranks.tell_inspections(ranks, tell, _INSPECTED_WITHIN)
        else:
            tell([])

    def on_get_collectives(self, payload: bytes, number: int) -> None:
        """Report when the ranks called their last collectives."""

        def tell(times: list[dict[str, Any]]) -> None:
            self.emit("rank_collectives", number=number, times=times, epoch=_epoch())

        if self.prepared:
            self.ranks.tell_collectives(tell, _INSPECTED_WITHIN)
        else:
            tell([])

    def on_get_usage(
        self,
        payload: bytes,
        number: int,
        progress: bool = False,
        tail_of: int | None = None,
        only_steps: bool = False,
    ) -> None:
        """Report the resource usage of the ranks, their progress, and the last output of one of them."""
        if self.prepared:
            tell = partial(self.emit, "rank_usage", number=number)
            self.ranks.tell_usage(lambda ranks: tell(ranks=ranks), progress, tail_of, only_steps)
        else:
            self.emit("rank_usage", number=number, ranks={})

    def lost(self, why: str) -> None:
        """End the ranks and this agent, because no controller is left to decide."""
        if self.is_lost or self.leaving:
            return
        self.is_lost, deadline = True, time.monotonic() + _LAST_WISH
        if not self.prepared:
            self.quit()
            return
        self.complain(f"{why}: terminating the ranks")
        self.ranks.signal(signal.SIGTERM, self.ranks.alive())
        self.until_gone(why, deadline)

    def until_gone(self, why: str, deadline: float) -> None:
        """Wait for a moment for ranks that were asked to exit; then kill everything."""
        if self.ranks.alive() and time.monotonic() < deadline:
            self.loop.call_later(0.02, lambda: self.until_gone(why, deadline))
            return
        self.ranks.close()
        self.ranks.killing = True
        _, left = processes.kill_descendants(
            os.getpid(), self.ranks.persistent_pids() if self.controller is not None else ()
        )
        self.ranks.reap()
        self.ranks.watch.keep()
        self.record_end(why, left)
        self.quit()

    def quit(self) -> None:
        """Exit."""
        self.survey.close()
        os._exit(0)

    def fail(self) -> NoReturn:
        """End the ranks and this agent after an error in the agent; call it while that is handled.

        A controller that this agent started survives, and reports how the run ended.
        """
        traceback.print_exc()
        sys.stderr.flush()
        text = self.tell_crash()
        if self.wire.connected:
            self.wire.flush_within(_TELLS_WITHIN)
        spared = self.ranks.persistent_pids() if self.prepared and self.controller is not None else ()
        _, left = processes.kill_descendants(os.getpid(), spared)
        if self.prepared:
            self.ranks.remove_temporary()
            self.record_end(f"the agent failed ({text.strip().splitlines()[-1]})", left)
        os._exit(1)

    def tell_crash(self) -> str:
        """Report the exception that is being handled; return it as text."""
        text, error = traceback.format_exc(limit=-1), sys.exc_info()[1]
        limit = error is not None and processes.met_limit(error)
        self.wire.send(encode_frame("agent_crashed", text=text, limit=limit, t=time.monotonic()))
        return text

    def record_end(self, why: str, left: list[dict[str, Any]]) -> None:
        """Record in the run directory an end that no controller saw."""
        import json

        limit = processes.NO_MORE in why  # of a controller that hit a limit only its last line is left
        ended = {"time": time.time(), "why": why, "limit": limit, "left": left, "ranks": self.ranks.ends}
        text = json.dumps(ended)
        try:
            with open(os.path.join(self.folder, "ended.json"), "w") as file:
                file.write(text + "\n")
        except OSError as error:
            print(f"muster agent: {processes.reason_at(error)}", file=sys.stderr, flush=True)

    def complain(self, text: str) -> None:
        """Write a message to agent.log."""
        print(f"muster agent: {text}", file=sys.stderr, flush=True)
