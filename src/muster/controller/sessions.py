"""The people who watch a run on node 0: each over a connection of its own to the supervisor's local socket.

What is said is in `protocol/messages.py`.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from muster.controller.connections import TcpConnection
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
"""Seconds without one after which its connection is as good as broken."""
_ANSWERS_WITHIN = 4.0
"""Seconds in which agents have to answer what somebody asks through the supervisor."""
_FAREWELL = 10.0
"""Seconds that viewers have, at the end, to take the last words."""


class SessionsController(Protocol):
    """Who supervises the run, as far as those who watch it have to do with that (`detached.py`)."""

    loop: EventLoop
    plan: Plan
    run: Run
    supervisor: Supervisor
    records: list[str]
    """The lines of events.jsonl."""
    draining: bool
    """The run is over, and everybody is to go."""
    lease: float

    @property
    def far(self) -> Sequence[TcpConnection]:
        """The connections to all agents."""

    def now(self) -> float:
        """Seconds since muster was started."""

    def run_once(self) -> None:
        """Wait until something happens, and deal with it."""

    def send_message(self, node: int, kind: str, payload: bytes = b"", /, **fields: Any) -> None:
        """Send a frame to a node."""

    def broadcast(self, kind: str, **fields: Any) -> None:
        """Send a frame to all nodes."""

    def asked(self, viewer: Session, number: int, by: str = "") -> None:
        """A person wants the end."""

    def pass_on(self, number: int) -> None:
        """Pass a signal on to the ranks."""

    def on_owner_lost(self) -> None:
        """Nobody watches a run that was to end with its terminal."""

    def refused(self, text: str) -> None:
        """A connection was refused, or closed for what came over it."""


class Session:
    """Somebody who watches, or asks one thing and goes."""

    peer: Peer

    def __init__(self, name: str, now: float):
        self.name = name
        self.watches = self.is_owner = self.paused = False
        """`owns`: the run is to end with it. `paused`: it was stopped (Ctrl-Z), and gives no sign of life."""
        self.heard_at = now


class _Question:
    """What somebody has asked, and what came of it so far."""

    def __init__(self, viewer: Session, missing: set[int], awaited: set[int]):
        self.viewer, self.missing, self.awaited = viewer, missing, awaited
        """`missing` and `awaited`: the nodes that have not answered, and of those the ones that still may."""
        self.found: dict[str, Any] = {}
        """Tables whose keys are ranks."""


class Sessions:
    """All of them. `attached`: the run ends when its owner has been gone for as long as a lease."""

    listener: LocalListener
    """Where they come, once `listen` was called."""

    def __init__(self, world: SessionsController, attached: bool):
        self.world, self.attached = world, attached
        self.sessions: list[Session] = []
        self._count, self._note = 0, FirstFew(world.refused)
        self._forsaken_at: float | None = world.now() if attached else None
        self._dispatch = Dispatcher(
            handlers(self, "_on_"),
            lambda kind, fields: FROM_CLIENT[kind].fitting(fields),  # agents trust what is passed on
            lambda text, viewer: self._note(text),
        )
        self._questions: dict[int, _Question] = {}
        """What agents have been asked for, by number."""

    def listen(self, descriptor: int) -> None:
        """Let people come, at this socket."""
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
        """Every now and then: who has fallen silent, and is the owner there?"""
        now = self.world.now()
        for viewer in list(self.sessions):
            silent = now - viewer.heard_at > _SILENCE
            if viewer.watches and silent and (not viewer.paused or self.world.draining):
                viewer.peer.close()
        if any(viewer.is_owner for viewer in self.sessions) or not self.attached:
            self._forsaken_at = None
        elif self._forsaken_at is None:
            self._forsaken_at = now
        elif now - self._forsaken_at >= self.world.lease:
            self.attached = False  # it is said once
            self.world.on_owner_lost()
        self.world.loop.call_later(1.0, self._expire)

    # ---- out --------------------------------------------------------------------------------------------------------

    def tell(self, number: int, line: str) -> None:
        """An event, which is the so-manieth line of events.jsonl, to all who watch."""
        for viewer in self.sessions:
            if viewer.watches:
                viewer.peer.send(encode_frame("event", line.encode(), number=number))

    def output(self, name: str, node: int, data: bytes, place: Mapping[str, Any]) -> None:
        """What a rank wrote, to who wants it."""
        for viewer in self.sessions:
            if viewer.name == name:
                viewer.peer.send(encode_frame("output", data, node=node, **place))

    def stdin_taken(self, upto: int) -> None:
        """The rank that reads has taken so many bytes of stdin."""
        for viewer in self.sessions:
            if viewer.is_owner:
                viewer.peer.send(encode_frame("stdin_taken", upto=upto))

    def answered(self, number: int, node: int, **tables: Mapping[str, Any]) -> None:
        """The agent of a node has answered a question: tables whose keys are ranks."""
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
        version: int = OLDEST,
    ) -> None:
        world = self.world
        viewer.watches, viewer.is_owner = True, owner
        phase, plan = world.supervisor.phase, as_json(world.plan)
        viewer.peer.send(encode_frame("run", id=world.run.id, phase=phase, plan=plan, version=VERSION))
        for number, line in enumerate(world.records[events:], events + 1):
            viewer.peer.send(encode_frame("event", line.encode(), number=number))
        for link in world.far:
            world.send_message(link.node, "subscribe", reader=viewer.name, want=want, offsets=offsets, tail=tail)

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
        viewer.peer.send(encode_frame("answer", version=VERSION, **how))

    def _on_stacks(self, viewer: Session, payload: bytes, ranks: Any = None) -> None:
        self._ask(viewer, "get_stacks", ranks=ranks)

    def _on_usage(self, viewer: Session, payload: bytes) -> None:
        self._ask(viewer, "get_usage")

    def _ask(self, viewer: Session, kind: str, **fields: Any) -> None:
        """Ask all agents, and answer once all that are connected have; `missing` are the nodes that have not."""
        self._count += 1
        number = self._count
        missing = {link.node for link in self.world.far}
        awaited = {link.node for link in self.world.far if link.open and link.channel.connected}
        self._questions[number] = _Question(viewer, missing, awaited)
        self.world.broadcast(kind, number=number, **fields)
        self.world.loop.call_later(_ANSWERS_WITHIN if awaited else 0.0, lambda: self._answer(number))

    # ---- the end ----------------------------------------------------------------------------------------------------

    def close_all(self, outcome: RunResult) -> None:
        """Tell all how it ended, and see them go."""
        for viewer in list(self.sessions):
            if viewer.watches:
                viewer.peer.send(encode_frame("finished", outcome=outcome_as_json(outcome)))
        deadline = self.world.now() + _FAREWELL
        while self.sessions and self.world.now() < deadline:
            for viewer in list(self.sessions):
                if not viewer.watches and not viewer.peer.out:
                    viewer.peer.close()  # it has its answer
            if self.sessions:
                self.world.run_once()
