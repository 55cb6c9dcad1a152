"""The controller of a run on node 0, which outlives the terminal that started it.

Its parent is the agent of node 0, which restarts it when it dies: it then replays events.jsonl, and receives from the
agents what it missed. Agents of other nodes connect over TCP (`agent/dialer.py`), clients over a local socket
(`sessions.py`).
"""

from __future__ import annotations

import gc
import json
import os
import resource
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from muster.agent.dialer import Met
from muster.agent.log_streaming import KEEP
from muster.controller.agent_listener import AgentListener
from muster.controller.connections import AgentConnection, TcpConnection
from muster.controller.controller import Controller
from muster.controller.held import HeldRuns
from muster.controller.job_end import JobEnd
from muster.controller.job_time import BatchJob
from muster.controller.log_copies import LogCopies
from muster.controller.sessions import Session, Sessions
from muster.core.controller_config import ControllerConfig
from muster.core.env_forwarding import redact
from muster.core.events import (
    EVENTS,
    JOB_ENDS,
    Configured,
    JobEnding,
    PreemptionWarned,
    Replace,
    SignalRanks,
    SpareLost,
    StartRanks,
    StopRequested,
    event_from_json,
)
from muster.core.json_records import outcome_from_json
from muster.core.model import Plan, as_json
from muster.core.provenance import PROVENANCE
from muster.core.results import SIGHUP, RunResult
from muster.core.spares import as_planned, with_spare
from muster.core.supervisor import Phase
from muster.linux.eventloop import EventLoop
from muster.linux.signals import CapturedSignals
from muster.linux.writer import Writer
from muster.notification import failure_in_words, notify
from muster.protocol import trace
from muster.protocol.frames import FrameDecoder, encode_frame
from muster.protocol.handshake import Terms, new_nonce
from muster.protocol.listener import guarded
from muster.report import write_report
from muster.rundir.output_files import OutputFiles
from muster.rundir.run import Run
from muster.rundir.writer import RunWriter
from muster.ui.text import outcome_as_json

_COMES_BACK = 3.0
"""Seconds for a live agent to reconnect after a connection that was closed, rather than timed out."""
_LATE = 15.0
"""Seconds by which an agent may notice later than the controller that the connection is broken; its lease starts then.
"""
_FIRST = 20.0
"""Seconds for an agent to connect to the first controller once that has started. A live agent tries twice a second, and
its connection may be in the queue of the port already."""
_OUTPUTS = "outputs"
"""Name of the log subscription for files named by the user (`rundir/output_files.py`)."""


class DetachedController(Controller):
    """The controller of one run on its node 0."""

    def __init__(
        self,
        loop: EventLoop,
        plan: Plan,
        run: Run,
        config: ControllerConfig,
        secret: str,
        links: Sequence[TcpConnection] = (),
        incarnation: str = "",
        outputs: OutputFiles | None = None,
    ):
        """`links` and `incarnation` come from agents that are already connected. `outputs` are the user's log files."""
        plan = as_planned(plan, [node.host for node in config.nodes])
        hosts = (*(node.host for node in plan.nodes), *plan.spares)
        links = links or [
            TcpConnection(number, host.name, known.clock_offset, known.facts)
            for number, (host, known) in enumerate(zip(hosts, config.nodes))
        ]
        super().__init__(loop, plan, run, links[: len(plan.nodes)], config)
        self.every = list(links)
        """The connections of all hosts, by the numbers with which they connect: the nodes, then the spares."""
        self.far, self.secret, self.incarnation = self.every[: len(plan.nodes)], secret, incarnation or new_nonce()
        self.lease: float = plan.job.lease
        for link in links:
            link.channel.tracer = link.channel.tracer or trace.tracer(str(run.path), "controller", "agent", link.host)
        self.facts.update(config.nodes[0].facts)
        self.records: list[str] = []
        """The lines of events.jsonl."""
        self.scribe = RunWriter(Writer(loop), run, lambda text: print(text, file=sys.stderr, flush=True))
        self.scribe.do(lambda: run.reserve(plan.world_size))
        self.copies = LogCopies(self, self.scribe)
        self.outputs = outputs
        self.viewers = Sessions(self, config.owned, plan.job.transport == "local")
        self.hurry = False
        """True if the user does not want to wait for the rest of the logs."""
        self.draining = False
        self.held = HeldRuns(self, plan.job.hold) if plan.job.hold is not None else None
        """The runs on this session, if it is one."""
        self.job_end: JobEnd | None = None
        """The end of the scheduler's job in which this runs."""
        self.nodes_lost = False
        self._former_signals: list[SignalRanks] = []
        """The signals of this attempt that were decided before this controller started."""
        if config.again:
            self._go_on()
        else:
            self._rebuild()
        self._calls_within = self.lease + _LATE if self.records else _FIRST
        """Seconds for agents to connect to this controller: after a restart, they have their lease."""
        for link in self.far:
            self._subscribe(link)

    def _subscribe(self, link: TcpConnection) -> None:
        """Subscribe to the output of a node, if it is needed here."""
        if not self.config.nodes[link.node].shared:
            self.copies.subscribe(link)
        if self.outputs:
            self.send_message(link.node, "subscribe", reader=_OUTPUTS, want=True, offsets={}, tail=None)

    # ---- starting and restarting ------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Continue after attempts of a controller that ended with its job, keeping what it wrote."""
        self.records = self._written()
        self.record("supervisor began again", {"t": self.now(), "pid": os.getpid()})

    def _written(self) -> list[str]:
        """Return the recorded events; remove an incomplete last line, to which the next event would be appended."""
        path = self.run.path / "events.jsonl"
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            os.truncate(path, len(whole))
        return whole.decode().splitlines()

    def _rebuild(self) -> None:
        """Restore the state from recorded events, if there are any."""
        self.records = self._written()
        if not self.records:
            return
        for line in self.records:
            record = json.loads(line)
            if record["event"] in EVENTS:
                for action in self.supervisor.handle(event_from_json(record)):
                    if isinstance(action, Replace):
                        self._take_place(action)
                    elif isinstance(action, StartRanks):
                        self._former_signals.clear()
                    elif isinstance(action, SignalRanks):
                        self._former_signals.append(action)
            elif record["event"] == "begin":
                self.begun = True
            elif record["event"] == "warm" and record["node"] == 0:
                self.facts["fork"] = record["fork"]
            elif record["event"] == PROVENANCE:
                self._described.add(record["node"])
        data = self.run.read("outcome.json")
        if data is not None:
            self.outcome = outcome_from_json(data)
        self.record("supervisor began again", {"t": self.now(), "pid": os.getpid()})
        if self.supervisor.phase is Phase.RUNNING:
            self.pace.begin()

    def go(self, own: int, visitors: int, door: int) -> RunResult:
        """Run to the end and return the result.

        The arguments are descriptors: the connection to the local agent, or -1; the clients' listening socket; the
        agents' listening socket, or -1.
        """
        self.scribe.writer.start()
        for link in self.every:
            if link.channel.connected:
                self._hear_of(link)
            elif link.open and (own < 0 or link.node):
                self.loop.call_later(self._calls_within, partial(self._never_called, link))
        if own >= 0:
            self._connect(self.far[0], Met(own, FrameDecoder(), 0, None))
        self.viewers.listen(visitors)
        if door >= 0:
            listener = socket.socket(fileno=door)
            terms = Terms(self.secret, self.run.id)
            AgentListener(
                self.loop, listener, terms, self.incarnation, self._expect, self._agent_connected, self.refused
            )
        while self.outcome is None:
            self.run_once()
        self._end(self.outcome)
        return self.outcome

    # ---- events and messages ----------------------------------------------------------------------------------------

    def record(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Write an event to events.jsonl, and send it to all watching clients."""
        if self.draining:
            return
        line = json.dumps({"event": kind, **fields})
        self.records.append(line)
        self.scribe.append("events.jsonl", line + "\n")
        self.viewers.tell(len(self.records), line)

    def keep_file(self, name: str, data: bytes) -> None:
        """Write a file of the run directory."""
        self.scribe.replace(name, data)

    def notify(self, text: str) -> None:
        """Show a message to the user."""
        self.record("say", {"text": text})

    def begin(self) -> None:
        """Record that the ranks are about to start."""
        self.record("begin", {"facts": self.facts})

    # ---- agents -----------------------------------------------------------------------------------------------------

    def _expect(self, node: int) -> int | None:
        """Return how many frames of a node were received; None for a lost node, whose ranks count as exited."""
        if not 0 <= node < len(self.every) or not self.every[node].open:
            return None
        if self.every[node].channel.connected:
            self.every[node].disconnect(self.loop)
        return self.every[node].channel.received

    def refused(self, text: str) -> None:
        """Record that a connection was refused, or closed because of what it sent."""
        self.record("refused", {"t": self.now(), "text": text})

    def _agent_connected(self, node: int, met: Met) -> None:
        """Handle the connection of an authenticated agent."""
        link = self.every[node]
        if link.disconnected_at is not None:
            self.notify(f"{link.host} reconnected after {self.now() - link.disconnected_at:.0f}s")
            link.disconnected_at = None
        self._connect(link, met)

    def _connect(self, link: TcpConnection, met: Met) -> None:
        link.connect(met)
        self._hear_of(link)

    def _hear_of(self, link: TcpConnection) -> None:
        self.loop.add_reader(link.channel.reading, lambda: self._heard(link))
        self.flush(link)

    def _heard(self, link: TcpConnection) -> None:
        frames = link.channel.read()
        if frames is not None:
            with guarded(self.refused, lambda: self._parted(link)):
                self.receive(link, frames)
            return
        if link.channel.refused:
            self.refused(f"closed the connection to {link.host}: {link.channel.refused}")
        self._parted(link)

    def _parted(self, link: TcpConnection) -> None:
        """Handle the end of an agent's connection; a live agent reconnects, except that of this node."""
        if not link.channel.connected:
            return
        silent = link.channel.timed_out
        link.disconnect(self.loop)
        if self.draining:
            link.open = False
        elif link.broken:
            self.lost(link, f"the agent on {link.host} failed: {link.broken}; see agent.log there")
        elif link.node == 0:
            self.lost(link, f"lost {link.host}: muster's agent on it exited, and its ranks with it")
        else:
            link.disconnected_at = now = self.now()
            if silent:
                self.notify(f"no answer from {link.host}; waiting up to {self.lease:g}s for it to reconnect (--lease)")
            patience = self.lease + _LATE if silent else _COMES_BACK
            self.loop.call_later(patience, lambda: self._lease_expired(link, now, silent))

    def lost(self, link: AgentConnection, why: str) -> None:
        """Handle that an agent is gone for good."""
        if self._is_spare(link):
            link.open = False
            self.notify(f"warning: spare host {link.host}: {why}")
            self.handle(SpareLost(self.now(), link.node, why))
            return
        self.nodes_lost = True
        super().lost(link, why)

    # ---- spare hosts ------------------------------------------------------------------------------------------------

    def _is_spare(self, link: AgentConnection) -> bool:
        """Return whether this is the connection to a spare host that has nobody's place."""
        return link.node >= len(self.far)

    def send_message(self, node: int, kind: str, payload: bytes = b"", /, **fields: Any) -> None:
        """Send a message to a node, or to a spare host by its number."""
        link = self.links[node] if node < len(self.links) else self.every[node]
        self.send_frames(link, encode_frame(kind, payload, **fields))

    def replace(self, action: Replace) -> None:
        """Have a spare host take the place of a lost one."""
        lost, link = self.far[action.node].host, self.every[action.spare]
        self._take_place(action)
        self.notify(f"{link.host} takes the place of {lost}; restarting all ranks")
        self.scribe.do(partial(self.run.write, "plan.json", redact(as_json(self.plan))))
        self.send_message(action.node, "take_place", node=action.node)
        self._subscribe(link)
        self.viewers.subscribe(link)

    def _take_place(self, action: Replace) -> None:
        """Record that a spare host has the place of a node from now on."""
        first, link = len(self.far), self.every[action.spare]
        self.far[action.node].open = False
        link.node = action.node
        self.far[action.node] = self.links[action.node] = link
        nodes = list(self.config.nodes)
        nodes[action.node] = nodes[action.spare]
        self.config = self.config._replace(nodes=tuple(nodes))
        self.plan = with_spare(self.plan, action.node, action.spare - first)

    def _never_called(self, link: TcpConnection) -> None:
        """Report an agent as lost that has not connected in time since this controller started."""
        if link.open and not link.channel.connected and link.disconnected_at is None and not self.draining:
            self.lost(link, f"the agent on {link.host} did not connect within {self._calls_within:g}s")

    def _lease_expired(self, link: TcpConnection, since: float, silent: bool) -> None:
        """Report an agent as lost that has not reconnected."""
        if link.disconnected_at == since and link.open and not self.draining:
            exited = "muster's agent on it exited, and its ranks with it"
            how = f"unreachable for {self.now() - since:.0f}s" if silent else exited
            self.lost(link, f"lost {link.host}: {how}")

    def _on_agent_state(
        self, link: AgentConnection, t: float, payload: bytes, started: int, listened: int, signals: int | None = None
    ) -> None:
        """Handle an agent's first contact with this controller, and send it the commands that it missed."""
        now = self.supervisor
        self.record("state", {"t": t, "node": link.node, "started": started, "listened": listened})
        if self._is_spare(link):
            return
        if self.every.index(link) != link.node and started < 0:  # type: ignore[arg-type]
            self.send_message(link.node, "take_place", node=link.node)
        holds_store = link.node in self.plan.stores
        if holds_store and now.phase is Phase.STARTING and listened < now.attempt and not now.pauses:
            if self.held is not None:
                pass  # a session has no ranks
            elif now.configured:
                self.open_store(link.node, now.attempt)
            elif link.node == 0:
                self.handle(Configured(t))
        under_way = now.phase in (Phase.RUNNING, Phase.ATTRIBUTING, Phase.TERMINATING)
        if under_way and started < now.attempt and now.port is not None:
            self.start(link, StartRanks(now.attempt, now.port))
        if under_way and signals is not None:
            for action in self._former_signals[signals if started == now.attempt else 0 :]:
                self.signal(link.node, action.number, set(action.ranks))
        if now.waits_for(link.node):
            self.send_message(link.node, "clean_up", patience=now.patience, well=now.ends_well)

    def _on_output(
        self,
        link: AgentConnection,
        t: float,
        payload: bytes,
        reader: str,
        rank: int,
        stream: str,
        attempt: int,
        offset: int,
    ) -> None:
        if reader == KEEP:
            self.copies.take(link, attempt, rank, stream, offset, payload)
        elif reader == _OUTPUTS and self.outputs is not None:
            write = self.outputs.take(attempt, rank, stream, offset, payload)
            if write is not None:
                self.scribe.do(write)
            self.send_message(link.node, "credit", reader=_OUTPUTS, count=len(payload))
        else:
            place = {"rank": rank, "stream": stream, "attempt": attempt, "offset": offset}
            self.viewers.output(reader, link.node, payload, place)

    def _on_stdin_taken(self, link: AgentConnection, t: float, payload: bytes, upto: int) -> None:
        self.viewers.stdin_taken(upto)

    def _on_rank_stacks(
        self, link: AgentConnection, t: float, payload: bytes, number: int, texts: dict[str, str], mute: dict[str, int]
    ) -> None:
        self.viewers.answered(number, link.node, texts=texts, mute=mute)

    def _on_rank_usage(
        self, link: AgentConnection, t: float, payload: bytes, number: int, ranks: dict[str, dict[str, Any]]
    ) -> None:
        self.viewers.answered(
            number, link.node, ranks={rank: {**use, "node": link.node} for rank, use in ranks.items()}
        )

    def _on_run_hosted(
        self, link: AgentConnection, t: float, payload: bytes, run_id: str, failed: str, port: int, run_dir: str
    ) -> None:
        if self.held is not None:
            self.held.hosted(link.node, run_id, failed, port, run_dir)

    def _on_run_left(self, link: AgentConnection, t: float, payload: bytes, run_id: str) -> None:
        if self.held is not None:
            self.held.left(link.node, run_id)

    # ---- the scheduler ----------------------------------------------------------------------------------------------

    def watch_job(self, batch: BatchJob, signals: CapturedSignals) -> JobEnd:
        """Handle the scheduler's signals to this process, and watch for the end of the job."""
        self.job_end = JobEnd(self, batch)
        self.job_end.start(signals)
        return self.job_end

    def _on_scheduler_signal(self, link: AgentConnection, t: float, payload: bytes) -> None:
        if self.job_end is not None:
            self.job_end.terminated()

    def _on_preemption_handlers(
        self, link: AgentConnection, t: float, payload: bytes, ranks: list[int], cause: str = ""
    ) -> None:
        if self.job_end is not None:
            self.job_end.heard_of(link.node, ranks, t)
        elif cause in JOB_ENDS and ranks:  # of the job of a session, whose controller watches it
            self.handle(PreemptionWarned(t, cause, tuple(ranks)))

    def job_ends(self, event: JobEnding) -> None:
        """Handle that the scheduler ends the job; on a session, its run ends first."""
        if self.held is not None:
            self.held.job_ends(event)
        else:
            self.handle(event)

    # ---- users ------------------------------------------------------------------------------------------------------

    def asked(self, viewer: Session, number: int, by: str = "") -> None:
        """Handle a user's request to stop the run."""
        if self.outcome is not None:
            self.hurry = True
            return
        if self.held is not None:
            self.held.stop(lambda: self.handle(StopRequested(self.now(), number, by)), by or "the session")
            return
        self.handle(StopRequested(self.now(), number, by))

    def on_owner_lost(self, seconds: float) -> None:
        """Stop a run that was to end with its owner, who has been gone for so long; 0: the program has ended."""

        def stop() -> None:
            self.handle(StopRequested(self.now(), SIGHUP, gone_for=seconds))

        if self.held is not None:
            self.held.stop(stop, "the session")
        else:
            stop()

    # ---- the end ----------------------------------------------------------------------------------------------------

    def _end(self, outcome: RunResult) -> None:
        """Wait for the agents to send the rest of the logs and exit, then tell all clients."""
        self.scribe.do(lambda: self.run.write_outcome(outcome_as_json(outcome)))
        self.draining = True
        for link in self.every:
            if not link.channel.connected:
                link.open = False
        self.broadcast("bye", drain=True)
        for link in filter(self._is_spare, self.every):
            self.send_message(link.node, "bye", drain=True)
        while any(link.open for link in self.every):
            self.run_once()
            if self.hurry:
                break
        complete = not self.nodes_lost and not any(link.open for link in self.every)
        if self.outputs is not None:
            self.scribe.do(partial(self.outputs.finish, self.run))
        outcome = self._with_gaps(outcome)
        self.scribe.close()  # a client that hears of the end may read the files immediately
        self.viewers.close_all(outcome, complete)
        if why := write_report(self.run, outcome, os.environ):  # no client waits for it
            print(why, file=sys.stderr, flush=True)

    def _with_gaps(self, outcome: RunResult) -> RunResult:
        """Return the result with the gaps in copies of logs, now that everything was sent.

        Received data is written and gaps are counted even if a user does not want to wait: no agent is waited for then,
        but the result must be correct.
        """
        if not self.copies.finish():
            return outcome
        self.outcome = outcome = outcome._replace(unlogged=self.supervisor.unlogged)
        self.scribe.do(lambda: self.run.write_outcome(outcome_as_json(outcome)))
        return outcome


def tell_of_end(run: Run, outcome: RunResult) -> None:
    """Run the `--on-end` command, and report its failure in the controller's log."""
    notification = notify(run, outcome.state, outcome)
    if notification is not None:
        notification.wait()
        if why := failure_in_words(run):
            print(f"warning: {why}", file=sys.stderr, flush=True)


def serve(words: list[str]) -> int:
    """Run the program `serve RUN_DIR OWN VISITORS [DOOR]`, with the secret on stdin."""
    return _serve(words[0], sys.stdin.read(), *(int(word) for word in words[1:]))


def _serve(run_dir: str, secret: str, own: int, visitors: int, door: int = -1) -> int:
    """Be the controller of the run in this directory; the descriptors are those of `DetachedController.go`."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # two per node; nothing is started here that would inherit the limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    run = Run(Path(run_dir))
    plan, config = run.plan, run.controller_config
    assert plan is not None and config is not None
    world = DetachedController(EventLoop(), plan, run, config, secret)
    outcome = world.go(own, visitors, door)
    tell_of_end(run, outcome)
    return 0


def standby(words: list[str]) -> int:
    """Run the program `standby SOCKET`: fork a controller on each request, and send its pid.

    A request brings a socket, on which the fork waits for a run of the session. Everything is imported by then.
    """
    parent = socket.socket(fileno=int(words[0]))
    gc.freeze()  # or the first collection in a fork would copy the pages of all modules
    while True:
        asked, fds, _, _ = socket.recv_fds(parent, 32, 1)
        if not asked:
            return 0  # the session has ended
        told, tell = os.pipe()
        middle = os.fork()
        if middle == 0:  # its child becomes that of the agent, which reaps it
            pid = os.fork()
            if pid:
                os.write(tell, str(pid).encode())
                os._exit(0)
            for fd in (told, tell):
                os.close(fd)
            parent.close()
            os.setsid()
            return _stand_by(fds[0])
        os.waitpid(middle, 0)
        os.close(tell)
        with open(told, "rb") as pipe:
            pid_there = pipe.read()
        for fd in fds:
            os.close(fd)
        if pid_there:
            parent.send(pid_there)


def _stand_by(descriptor: int) -> int:
    """Wait for a run on a session, and be its controller.

    The socket brings {run_dir, secret} and the descriptors of `serve`.
    """
    sock = socket.socket(fileno=descriptor)
    data = b""
    doors: list[int] = []
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        more, fds, _, _ = socket.recv_fds(sock, 1 << 16, 8)
        if not more:
            return 0  # the session has ended
        data, doors = data + more, doors + fds
    sock.close()
    order = json.loads(data[4:])
    log = os.open(os.path.join(order["run_dir"], "controller.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for fd in (1, 2):
        os.dup2(log, fd)
    os.close(log)
    return _serve(order["run_dir"], order["secret"], *doors)
