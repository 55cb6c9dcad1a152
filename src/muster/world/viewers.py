"""The people who watch a run on node 0: each over a connection of its own to the supervisor's local socket.

viewer                                        supervisor
watch: what it wants, what it has seen  ──►
                                        ◄──   run, event (numbered), output, over
taken, asked, stdin, beat, pause        ──►
kill, stacks, state                     ──►
                                        ◄──   answer
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from muster.agent.protocol import pack
from muster.agent.wire import Wire
from muster.model import Outcome, as_json

if TYPE_CHECKING:
    from muster.world.serve import Served

BEAT = 5.0
"""Seconds between two signs of life of a viewer."""
_SILENCE = 3 * BEAT
"""Seconds without one after which its connection is as good as broken."""
_STACKS_WITHIN = 4.0
_FAREWELL = 10.0
"""Seconds that viewers have, at the end, to take the last words."""


class Viewer:
    """Somebody who watches, or asks one thing and goes."""

    def __init__(self, name: str, sock: socket.socket, now: float):
        self.name, self.sock = name, sock
        self.wire = Wire(sock.fileno(), sock.fileno())
        self.watches = self.owns = self.paused = False
        """`owns`: the run is to end with it. `paused`: it was stopped (Ctrl-Z), and gives no sign of life."""
        self.heard_at = now


class Viewers:
    """All of them. `attached`: the run ends when its owner has been gone for as long as a lease."""

    def __init__(self, world: Served, attached: bool):
        self.world, self.attached = world, attached
        self.all: list[Viewer] = []
        self._count = 0
        self._forsaken_at: float | None = world.now() if attached else None
        self._asked: dict[int, tuple[Viewer, set[int], dict[str, Any]]] = {}
        """By number: who asked for stacks, the nodes that have still to answer, and what the others said."""

    def listen(self, descriptor: int) -> None:
        """Let people come, at this socket."""
        visitors = socket.socket(fileno=descriptor)
        visitors.setblocking(False)
        self.world.selector.register(visitors, selectors.EVENT_READ, lambda: self._called(visitors))
        self._look_around()

    def _called(self, visitors: socket.socket) -> None:
        try:
            sock, _ = visitors.accept()
        except OSError:
            return
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (os.getuid(), 0):
            sock.close()
            return
        sock.setblocking(False)
        self._count += 1
        viewer = Viewer(f"viewer {self._count}", sock, self.world.now())
        self.all.append(viewer)
        # a descriptor of its own for writing: it is watched by itself
        viewer.wire.writing = os.dup(sock.fileno())
        self.world.selector.register(sock, selectors.EVENT_READ, lambda: self._heard(viewer))

    def _look_around(self) -> None:
        """Every now and then: who has fallen silent, and is the owner there?"""
        now = self.world.now()
        for viewer in list(self.all):
            silent = now - viewer.heard_at > _SILENCE
            if viewer.watches and silent and (not viewer.paused or self.world.parting):
                self._close(viewer)
        if any(viewer.owns for viewer in self.all) or not self.attached:
            self._forsaken_at = None
        elif self._forsaken_at is None:
            self._forsaken_at = now
        elif now - self._forsaken_at >= self.world.lease:
            self.attached = False  # it is said once
            self.world.forsaken()
        self.world.after(1.0, self._look_around)

    # ---- out --------------------------------------------------------------------------------------------------------

    def _send(self, viewer: Viewer, frame: bytes) -> None:
        viewer.wire.put(frame)
        self._flush(viewer)

    def _flush(self, viewer: Viewer) -> None:
        viewer.wire.pump(self.world.selector, lambda: self._flush(viewer))

    def tell(self, number: int, line: str) -> None:
        """An event, which is the so-manieth line of events.jsonl, to all who watch."""
        for viewer in self.all:
            if viewer.watches:
                self._send(viewer, pack("event", line.encode(), number=number))

    def output(self, name: str, node: int, data: bytes, place: Mapping[str, Any]) -> None:
        """What a rank wrote, to who wants it."""
        for viewer in self.all:
            if viewer.name == name:
                self._send(viewer, pack("output", data, node=node, **place))

    def stacks(self, number: int, node: int, texts: Mapping[str, str], mute: Mapping[str, int]) -> None:
        """The stacks of the ranks of a node have come."""
        if number in self._asked:
            _, missing, found = self._asked[number]
            missing.discard(node)
            found["texts"].update(texts)
            found["mute"].update(mute)
            if not missing:
                self._answer_stacks(number)

    def _answer_stacks(self, number: int) -> None:
        asked = self._asked.pop(number, None)
        if asked is not None and asked[0] in self.all:
            self._send(asked[0], pack("answer", **asked[2], missing=sorted(asked[1])))

    # ---- in ---------------------------------------------------------------------------------------------------------

    def _heard(self, viewer: Viewer) -> None:
        try:
            frames = viewer.wire.read()
        except ValueError:
            frames = None
        if frames is None:
            self._close(viewer)
            return
        viewer.heard_at = self.world.now()
        for fields, payload in frames:
            heard = getattr(self, "_on_" + fields.pop("kind"), None)
            if heard is not None:
                heard(viewer, payload, **fields)

    def _close(self, viewer: Viewer) -> None:
        if viewer not in self.all:
            return
        self.all.remove(viewer)
        self.world.ignore(viewer.wire.reading, viewer.wire.writing)
        os.close(viewer.wire.writing)
        viewer.sock.close()
        self.world.tell_all("unread", reader=viewer.name)

    def _on_watch(
        self,
        viewer: Viewer,
        payload: bytes,
        want: Any,
        offsets: Mapping[str, int],
        tail: int | None,
        events: int,
        owner: bool,
    ) -> None:
        world = self.world
        viewer.watches, viewer.owns = True, owner
        self._send(viewer, pack("run", id=world.run.id, phase=world.supervisor.phase, plan=as_json(world.plan)))
        for number, line in enumerate(world.records[events:], events + 1):
            self._send(viewer, pack("event", line.encode(), number=number))
        for link in world.links:
            world.tell(link.node, "read", reader=viewer.name, want=want, offsets=offsets, tail=tail)

    def _on_taken(self, viewer: Viewer, payload: bytes, node: int, count: int) -> None:
        self.world.tell(node, "taken", reader=viewer.name, count=count)

    def _on_beat(self, viewer: Viewer, payload: bytes) -> None:
        viewer.paused = False

    def _on_pause(self, viewer: Viewer, payload: bytes) -> None:
        viewer.paused = True

    def _on_asked(self, viewer: Viewer, payload: bytes, number: int) -> None:
        self.world.asked(viewer, number)

    def _on_kill(self, viewer: Viewer, payload: bytes, by: str = "") -> None:
        self.world.asked(viewer, 0, by)
        self._send(viewer, pack("answer"))

    def _on_stdin(self, viewer: Viewer, payload: bytes, end: bool) -> None:
        rank = self.world.plan.job.stdin
        for node in self.world.plan.nodes:
            if any(other.rank == rank for other in node.ranks):
                self.world.tell(node.number, "stdin", payload, end=end)

    def _on_state(self, viewer: Viewer, payload: bytes) -> None:
        now = self.world.supervisor
        parted = [link.host for link in self.world.far if link.parted_at is not None]
        self._send(viewer, pack("answer", phase=now.phase, attempt=now.attempt, alive=now.alive(), parted=parted))

    def _on_stacks(self, viewer: Viewer, payload: bytes, ranks: Any = None) -> None:
        self._count += 1
        number = self._count
        nodes = {link.node for link in self.world.links if link.open and link.wire.connected}
        self._asked[number] = (viewer, nodes, {"texts": {}, "mute": {}})
        self.world.tell_all("stacks", ranks=ranks, number=number)
        self.world.after(_STACKS_WITHIN, lambda: self._answer_stacks(number))

    # ---- the end ----------------------------------------------------------------------------------------------------

    def part(self, outcome: Outcome) -> None:
        """Tell all how it ended, and see them go."""
        for viewer in list(self.all):
            if viewer.watches:
                self._send(viewer, pack("over", outcome=as_json(outcome)))
        deadline = self.world.now() + _FAREWELL
        while self.all and self.world.now() < deadline:
            for viewer in list(self.all):
                if not viewer.watches and not viewer.wire.out:
                    self._close(viewer)  # it has its answer
            if self.all:
                self.world.turn()
