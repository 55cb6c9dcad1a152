"""The clients of a run on node 0, each with its own connection to the controller's local socket.

The messages are in `protocol/messages.py`.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from muster.controller.connections import TcpConnection
from muster.controller.held import HeldRuns
from muster.controller.snapshots import Snapshots
from muster.core.inspection import CollectiveTimes, Snapshot, SnapshotReason
from muster.core.model import Plan, as_json
from muster.core.results import RunResult
from muster.core.supervisor import Supervisor
from muster.linux.eventloop import EventLoop
from muster.protocol import trace
from muster.protocol.frames import OLDEST, VERSION, Dispatcher, encode_frame, handlers
from muster.protocol.listener import FirstFew, LocalListener, Peer
from muster.protocol.messages import BEAT, FORMER, FROM_CLIENT
from muster.rundir.run import Run
from muster.ui.text import outcome_as_json

_SILENCE = 3 * BEAT
"""Seconds without a heartbeat after which a client's connection counts as broken."""
_NEAR_COMES_BACK = 2.0
"""Seconds for an owner on this machine to connect again after its connection ended, which no network can break."""
_ANSWERS_WITHIN = 4.0
"""Seconds for agents to answer a client's question."""
_FAREWELL = 10.0
"""Seconds for clients to receive the last messages at the end."""


class SessionsController(Protocol):
    """The part of the controller that sessions use (`detached.py`)."""

    loop: EventLoop
    plan: Plan
    run: Run
    supervisor: Supervisor
    records: list[str]
    """The lines of events.jsonl."""
    snapshots: Snapshots
    draining: bool
    """True if the run has ended, and all clients are to be closed."""
    lease: float
    held: HeldRuns | None
    """The runs on this session, if it is one."""

    @property
    def far(self) -> Sequence[TcpConnection]:
        """The connections to all agents."""

    def now(self) -> float:
        """Return the seconds since muster was started."""

    def run_once(self) -> None:
        """Wait for an event, and handle it."""

    def send_message(self, node: int, kind: str, payload: bytes = b"", /, **fields: Any) -> None:
        """Send a message to a node."""

    def broadcast(self, kind: str, **fields: Any) -> None:
        """Send a message to all nodes."""

    def asked(self, viewer: Session, number: int, by: str = "") -> None:
        """Handle a user's request to stop the run."""

    def pass_on(self, number: int) -> None:
        """Forward a signal to the ranks."""

    def on_owner_lost(self, seconds: float) -> None:
        """Stop a run that was to end with its owner, who has been gone for so long; 0: the program has ended."""

    def refused(self, text: str) -> None:
        """Record that a connection was refused, or closed because of what it sent."""


class Session:
    """A client that watches the run, or asks a single question."""

    peer: Peer

    def __init__(self, name: str, now: float):
        self.name = name
        self.watches = self.is_owner = self.paused = False
        """`is_owner`: the run ends with this client. `paused`: it was stopped (Ctrl-Z), and sends no heartbeats."""
        self.want: Any = False
        """The ranks whose output it wants."""
        self.ahead = 0
        """How many events it has seen that an earlier controller was killed before it had written."""
        self.heard_at = now


class _Question:
    """A client's question to the agents, and the answers so far."""

    def __init__(self, viewer: Session, missing: set[int], awaited: set[int]):
        self.viewer, self.missing, self.awaited = viewer, missing, awaited
        """`missing`: the nodes that have not answered; `awaited`: those of them that still may."""
        self.found: dict[str, Any] = {}
        """Tables by rank."""


def _stops_in(records: Sequence[str]) -> int:
    """Return how many signals of the owner, which are to end the run, are recorded."""
    asked = (json.loads(line) for line in records if '"asked"' in line)
    return sum(
        record["event"] == "asked" and bool(record.get("signal")) and record.get("gone_for") is None for record in asked
    )


class Sessions:
    """All sessions of a run. `attached`: the run is stopped when its owner has been gone for as long as a lease.

    `near`: the owner is a program on this machine: it has ended when its connection has, and needs no heartbeats.
    """

    listener: LocalListener
    """The listening socket, set by `listen`."""

    def __init__(self, world: SessionsController, attached: bool, near: bool):
        self.world, self.attached, self._near = world, attached, near
        self.sessions: list[Session] = []
        self._count, self._note = 0, FirstFew(world.refused)
        self._forsaken_at: float | None = world.now() if attached else None
        self._ended = False
        """Whether the program of the owner has ended, as far as that can be seen."""
        self._dispatch = Dispatcher(
            handlers(self, "_on_"),
            lambda kind, fields: FROM_CLIENT[kind].fitting(fields),  # agents trust it
            lambda text, viewer: self._note(text),
        )
        self._questions: dict[int, _Question] = {}
        """Questions to the agents, by number."""

    def listen(self, descriptor: int) -> None:
        """Accept clients at this socket."""
        self.listener = LocalListener(self.world.loop, socket.socket(fileno=descriptor), self._called, self._note)
        self._expire()

    def _called(self, sock: socket.socket) -> None:
        self._count += 1
        viewer = Session(f"viewer {self._count}", self.world.now())
        viewer.peer = Peer(
            self.world.loop,
            sock,
            lambda _, fields, payload: self._heard(viewer, fields, payload),
            lambda _: self._left(viewer),
            self._note,
        )
        viewer.peer.tracer = trace.tracer(str(self.world.run.path), "controller", "client")
        self.sessions.append(viewer)

    def _expire(self) -> None:
        """Close silent sessions, and check whether the owner is connected, regularly."""
        now = self.world.now()
        for viewer in list(self.sessions):
            silent = now - viewer.heard_at > _SILENCE
            may_be_silent = viewer.paused or (self._near and viewer.is_owner)
            if viewer.watches and silent and (not may_be_silent or self.world.draining):
                viewer.peer.close()
        if any(viewer.is_owner for viewer in self.sessions) or not self.attached:
            self._forsaken_at, self._ended = None, False
        elif self._forsaken_at is None:
            self._forsaken_at = now
        elif now - self._forsaken_at >= (_NEAR_COMES_BACK if self._ended else self.world.lease):
            self.attached = False  # reported once
            self.world.on_owner_lost(0.0 if self._ended else self.world.lease)
        self.world.loop.call_later(1.0, self._expire)

    # ---- out --------------------------------------------------------------------------------------------------------

    def tell(self, number: int, line: str) -> None:
        """Send an event, with its line number in events.jsonl, to all watching clients."""
        for viewer in self.sessions:
            if viewer.watches:
                viewer.peer.send(encode_frame("event", line.encode(), number=number + viewer.ahead))

    def output(self, name: str, node: int, data: bytes, place: Mapping[str, Any]) -> None:
        """Send a rank's output to the session that subscribed to it."""
        for viewer in self.sessions:
            if viewer.name == name:
                viewer.peer.send(encode_frame("output", data, node=node, **place))

    def stdin_taken(self, upto: int) -> None:
        """Tell the owner how many bytes of stdin the rank has read."""
        for viewer in self.sessions:
            if viewer.is_owner:
                viewer.peer.send(encode_frame("stdin_taken", upto=upto))

    def answered(self, number: int, node: int, **tables: Mapping[str, Any]) -> None:
        """Handle a node's answer to a question: tables by rank."""
        question = self._questions.get(number)
        if question is None:
            return
        question.missing.discard(node)
        question.awaited.discard(node)
        for name, part in tables.items():
            question.found.setdefault(name, {}).update(part)
        if not question.awaited:
            self._answer(number)

    def _answer(self, number: int) -> None:
        question = self._questions.pop(number, None)
        if question is not None and question.viewer in self.sessions:
            question.viewer.peer.send(
                encode_frame("answer", **question.found, missing=sorted(question.missing), version=VERSION)
            )

    # ---- in ---------------------------------------------------------------------------------------------------------

    def _heard(self, viewer: Session, fields: dict[str, Any], payload: bytes) -> None:
        viewer.heard_at = self.world.now()
        if viewer.peer.tracer is not None:
            viewer.peer.tracer.heard(fields, payload)
        if fields["kind"] == FORMER["attach"]:
            # an earlier client, which finds in this that the other end is of a version that it does not know
            viewer.peer.send(encode_frame("run", id=self.world.run.id, phase="", plan={}, version=VERSION))
            return
        if not self._dispatch(fields, payload, viewer):
            viewer.peer.send(encode_frame("unknown", what=fields["kind"], version=VERSION))

    def _left(self, viewer: Session) -> None:
        self.sessions.remove(viewer)
        self._ended = self._ended or (self._near and viewer.is_owner and not self.world.draining)
        self.world.broadcast("unsubscribe", reader=viewer.name)

    def _on_attach(
        self,
        viewer: Session,
        payload: bytes,
        want: Any,
        offsets: Mapping[str, int],
        tail: int | None,
        events: int,
        owner: bool,
        stops: Sequence[int] = (),
        version: int = OLDEST,
    ) -> None:
        world = self.world
        viewer.watches, viewer.is_owner, viewer.want = True, owner, want
        viewer.ahead = max(0, events - len(world.records))
        phase, plan = world.supervisor.phase, as_json(world.plan)
        viewer.peer.send(encode_frame("run", id=world.run.id, phase=phase, plan=plan, version=VERSION))
        for number, line in enumerate(world.records[events:], events + 1):
            viewer.peer.send(encode_frame("event", line.encode(), number=number))
        for link in world.far:
            world.send_message(link.node, "subscribe", reader=viewer.name, want=want, offsets=offsets, tail=tail)
        if owner:
            for number in stops[_stops_in(world.records) :]:
                world.asked(viewer, number)

    def subscribe(self, link: TcpConnection) -> None:
        """Have a host that takes the place of another send its output to those who watch."""
        for viewer in self.sessions:
            if viewer.watches:
                self.world.send_message(
                    link.node, "subscribe", reader=viewer.name, want=viewer.want, offsets={}, tail=None
                )

    def _on_credit(self, viewer: Session, payload: bytes, node: int, count: int) -> None:
        self.world.send_message(node, "credit", reader=viewer.name, count=count)

    def _on_heartbeat(self, viewer: Session, payload: bytes) -> None:
        viewer.paused = False

    def _on_suspend(self, viewer: Session, payload: bytes) -> None:
        viewer.paused = True

    def _on_stop(self, viewer: Session, payload: bytes, number: int) -> None:
        self.world.asked(viewer, number)

    def _on_forward_signal(self, viewer: Session, payload: bytes, number: int) -> None:
        self.world.pass_on(number)

    def _on_resize(self, viewer: Session, payload: bytes, rows: int, columns: int) -> None:
        if viewer.is_owner:
            self.world.broadcast("resize", rows=rows, columns=columns)

    def _on_kill(self, viewer: Session, payload: bytes, by: str = "") -> None:
        self.world.asked(viewer, 0, by)
        viewer.peer.send(encode_frame("answer", version=VERSION))

    def _on_stdin(self, viewer: Session, payload: bytes, at: int, end: bool) -> None:
        rank = self.world.plan.reader
        for node in self.world.plan.nodes:
            if any(other.rank == rank for other in node.ranks):
                self.world.send_message(node.number, "stdin", payload, at=at, end=end)

    def _on_state(self, viewer: Session, payload: bytes, version: int = OLDEST) -> None:
        now = self.world.supervisor
        parted = [link.host for link in self.world.far if link.disconnected_at is not None]
        how: dict[str, Any] = {"phase": now.phase, "attempt": now.attempt, "alive": now.alive(), "parted": parted}
        if self.world.held is not None:
            how["session"] = self.world.held.state()
        viewer.peer.send(encode_frame("answer", version=VERSION, **how))

    def _on_begin_run(self, viewer: Session, payload: bytes) -> None:
        def tell(answer: Mapping[str, Any]) -> None:
            self._reply(viewer, encode_frame("answer", session=answer, version=VERSION))

        if self.world.held is None:
            tell({"refused": "it is no session", "hint": "start one with `muster hold`"})
            return
        try:
            order = json.loads(payload)
        except ValueError:
            order = None
        if not isinstance(order, dict):
            tell({"refused": "the request is damaged", "hint": "start the run again"})
            return
        self.world.held.begin(order, tell)

    def _on_release(self, viewer: Session, payload: bytes, by: str = "", force: bool = False) -> None:
        def tell(answer: Mapping[str, Any]) -> None:
            self._reply(viewer, encode_frame("answer", session=answer, version=VERSION))

        if self.world.held is None:
            tell({"refused": "it is no session", "hint": "end a run with `muster kill`"})
            return
        self.world.held.release(by, force, tell)

    def _on_stacks(self, viewer: Session, payload: bytes, ranks: Any = None) -> None:
        self._ask(viewer, "get_stacks", ranks=ranks)

    def _on_inspect(self, viewer: Session, payload: bytes, ranks: list[int] | None = None, keep: bool = False) -> None:
        def tell(snapshot: Snapshot) -> None:
            missing = list(snapshot.silent)
            self._reply(viewer, encode_frame("answer", snapshot=as_json(snapshot), missing=missing, version=VERSION))

        self.world.snapshots.take(SnapshotReason.REQUEST, tell, keep, ranks)

    def _on_collectives(self, viewer: Session, payload: bytes) -> None:
        def tell(times: tuple[CollectiveTimes, ...], silent: tuple[int, ...], offsets: tuple[float, ...]) -> None:
            told = {"times": as_json(times), "missing": list(silent), "clock_offsets": list(offsets)}
            self._reply(viewer, encode_frame("answer", **told, version=VERSION))

        self.world.snapshots.times(tell)

    def _reply(self, viewer: Session, frame: bytes) -> None:
        """Send an answer, unless the client has left meanwhile."""
        if viewer in self.sessions:
            viewer.peer.send(frame)

    def _on_usage(
        self,
        viewer: Session,
        payload: bytes,
        progress: bool = False,
        tail_of: int | None = None,
        only_steps: bool = False,
    ) -> None:
        self._ask(viewer, "get_usage", progress=progress, tail_of=tail_of, only_steps=only_steps)

    def _ask(self, viewer: Session, kind: str, **fields: Any) -> None:
        """Ask all agents, and answer once all connected ones have; `missing` lists the nodes without an answer."""
        self._count += 1
        number = self._count
        missing = {link.node for link in self.world.far}
        awaited = {link.node for link in self.world.far if link.open and link.channel.connected}
        self._questions[number] = _Question(viewer, missing, awaited)
        self.world.broadcast(kind, number=number, **fields)
        self.world.loop.call_later(_ANSWERS_WITHIN if awaited else 0.0, lambda: self._answer(number))

    # ---- the end ----------------------------------------------------------------------------------------------------

    def close_all(self, outcome: RunResult, complete: bool) -> None:
        """Send the result to all clients, and wait for them to disconnect; `complete`: all output was sent."""
        for viewer in list(self.sessions):
            if viewer.watches:
                viewer.peer.send(encode_frame("finished", outcome=outcome_as_json(outcome), complete=complete))
        deadline = self.world.now() + _FAREWELL
        while self.sessions and self.world.now() < deadline:
            for viewer in list(self.sessions):
                if not viewer.watches and not viewer.peer.out:
                    viewer.peer.close()  # it has its answer
            if self.sessions:
                self.world.run_once()
