"""Sessions of clients of a run: the owner, its lease, suspension, questions. The clock is moved by hand."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from manual_loop import ManualLoop

from muster.controller.connections import TcpConnection
from muster.controller.controller import settings_of
from muster.controller.sessions import Session, Sessions
from muster.controller.snapshots import WITHIN, Snapshots
from muster.core.inspection import Inspection, Snapshot, SnapshotReason
from muster.core.json_inspection import snapshot_from_json
from muster.core.layout import layout
from muster.core.model import Host, Job, Program
from muster.core.results import RunResult, RunState
from muster.core.supervisor import Supervisor
from muster.launchers import make_plan
from muster.protocol.channel import Channel
from muster.protocol.frames import VERSION, FrameDecoder, encode_frame
from muster.protocol.local_sockets import SUPERVISOR, Sockets, new_token
from muster.rundir.run import Run

LEASE = 30.0


class Controller:
    """Records requests of clients; it has two agents, of which the second has no connection."""

    def __init__(self, folder: Path, attached: bool, near: bool = False) -> None:
        self.loop, self.lease, self.draining = ManualLoop(), LEASE, False
        self.held = None
        job = Job(Program("command", ("true",)), "exec", "python3", "--python", "/")
        self.plan = make_plan(job, layout([(Host("n1"), 1), (Host("n2"), 1)]), "20261127-000000-abcdef")
        self.run = Run(folder)
        self.supervisor = Supervisor(settings_of(self.plan))
        self.records = ['{"event": "one"}', '{"event": "two"}']
        self.far = [TcpConnection(number, f"n{number + 1}", 0.0, {}) for number in range(2)]
        self.far[0].channel = Channel(reading=0, writing=1)
        self.done: list[tuple[Any, ...]] = []
        self.snapshots = Snapshots(self)
        self.sockets = Sockets("20261127-000000-abcdef", new_token())
        self.viewers = Sessions(self, attached, near)
        self.viewers.listen(self.sockets.listen(SUPERVISOR).detach())
        self.clients: list[Client] = []

    @property
    def links(self) -> list[TcpConnection]:
        return self.far

    def keep_snapshot(self, snapshot: Snapshot) -> None:
        self.done.append(("keep", snapshot))

    def now(self) -> float:
        return self.loop.time()

    def run_once(self) -> None:
        for client in self.clients:
            client.hear()
        self.loop.advance(0.1)

    def send_message(self, node: int, kind: str, payload: bytes = b"", /, **fields: Any) -> None:
        self.done.append((kind, node, fields))

    def broadcast(self, kind: str, **fields: Any) -> None:
        self.done.append((kind, fields))

    def asked(self, viewer: Session, number: int, by: str = "") -> None:
        self.done.append(("asked", number, by))

    def pass_on(self, number: int) -> None:
        self.done.append(("pass", number))

    def on_owner_lost(self, seconds: float) -> None:
        self.done.append(("forsaken", seconds))

    def refused(self, text: str) -> None:
        self.done.append(("refused", text))

    def client(self, **watches: Any) -> Client:
        """Connect a client, which watches if its first message says so."""
        count = len(self.viewers.sessions)
        made = Client(self)
        self.loop.until(lambda: len(self.viewers.sessions) > count, "she is let in")
        self.clients.append(made)
        if watches:
            made.say("attach", **{"want": False, "offsets": {}, "tail": None, "events": 0, "owner": False, **watches})
        return made

    def heard(self, *done: Any) -> None:
        """Check the effect of a client's message."""
        self.loop.until(lambda: done in self.done, str(done))

    def close(self) -> None:
        for client in self.clients:
            client.sock.close()
        for viewer in list(self.viewers.sessions):
            viewer.peer.close()
        self.viewers.listener.sock.close()
        self.loop.close()


class Client:
    """The other end of a session."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        found = controller.sockets.connect(SUPERVISOR, os.getuid())
        assert found is not None
        self.sock, self._frames = found, FrameDecoder()
        self.sock.setblocking(False)
        self.frames: list[tuple[dict[str, Any], bytes]] = []
        self.closed = False

    def say(self, kind: str, payload: bytes = b"", **fields: Any) -> None:
        self.sock.sendall(encode_frame(kind, payload, **fields))

    def hear(self) -> bool:
        """Receive data; return True once the connection has ended."""
        while not self.closed:
            try:
                data = self.sock.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            self.closed = not data
            self.frames += self._frames.feed(data)
        return self.closed

    def next(self, kind: str) -> dict[str, Any]:
        """Return the next frame of this kind, skipping others."""

        def come() -> bool:
            self.hear()
            while self.frames and self.frames[0][0]["kind"] != kind:
                self.frames.pop(0)
            return bool(self.frames)

        self.controller.loop.until(come, f"`{kind}` comes")
        return self.frames.pop(0)[0]


@pytest.fixture
def attached(tmp_path: Path) -> Iterator[Controller]:
    made = Controller(tmp_path, attached=True)
    yield made
    made.close()


def beat(controller: Controller, seconds: float, *clients: Client) -> None:
    """Let time pass, while these clients send heartbeats."""
    for _ in range(round(seconds / 5)):
        for client in clients:
            client.say("heartbeat")
        controller.loop.advance(5.0)


def test_clients_get_missed_events_and_request_output_from_agents(attached: Controller) -> None:
    client = attached.client(want=[1], offsets={"0/1.out": 17}, events=1)
    assert "preparing" == client.next("run")["phase"]
    assert 2 == client.next("event")["number"]
    asked = {"reader": "viewer 1", "want": [1], "offsets": {"0/1.out": 17}, "tail": None}
    assert [("subscribe", node, asked) for node in range(2)] == attached.done
    attached.viewers.tell(3, '{"event": "three"}')
    assert 3 == client.next("event")["number"]
    attached.viewers.output("viewer 1", 1, b"bytes", {"rank": 1})
    attached.viewers.output("viewer 2", 1, b"others", {"rank": 1})
    assert (1, 1) == _of(client.next("output"), "node", "rank")
    client.say("credit", node=1, count=5)
    attached.heard("credit", 1, {"reader": "viewer 1", "count": 5})
    client.sock.close()
    attached.heard("unsubscribe", {"reader": "viewer 1"})


def test_a_client_that_has_seen_more_events_than_were_written_gets_the_next_ones(attached: Controller) -> None:
    """A controller that is killed may have told events that it had not written."""
    client = attached.client(events=5)
    client.next("run")
    attached.records.append('{"event": "three"}')
    attached.viewers.tell(3, attached.records[-1])
    assert 6 == client.next("event")["number"]


def test_a_request_to_end_the_run_that_a_killed_controller_did_not_record_is_made_again(attached: Controller) -> None:
    attached.records.append('{"event": "asked", "t": 1.0, "signal": 2, "by": "", "gone_for": null}')
    attached.records.append('{"event": "asked", "t": 1.0, "signal": 1, "by": "", "gone_for": 30.0}')
    attached.records.append('{"event": "asked", "t": 1.0, "signal": 0, "by": "ann", "gone_for": null}')
    attached.client(owner=True, stops=[2])
    client = attached.client(owner=True, stops=[2, 15])
    client.next("run")
    attached.client(stops=[2, 15]).next("run")  # does not own it
    attached.heard("asked", 15, "")
    assert 1 == sum(done[0] == "asked" for done in attached.done)


def test_a_snapshot_of_all_nodes(attached: Controller) -> None:
    """The second agent has no connection, and is named."""
    client = attached.client()
    client.say("inspect", keep=True)
    attached.heard("get_inspections", {"number": 1, "ranks": None})
    attached.snapshots.answered(1, 0, [{"rank": 0, "node": 7, "stacks": "here"}], (), 0.0)
    found = snapshot_from_json(client.next("answer")["snapshot"])
    assert (SnapshotReason.REQUEST, 0, (1,)) == (found.reason, found.attempt, found.silent)
    assert (Inspection(0, 0, stacks="here"),) == found.inspections
    assert ("keep", found) in attached.done


def test_a_snapshot_does_not_wait_for_an_agent_that_does_not_answer(attached: Controller) -> None:
    client = attached.client()
    client.say("inspect", ranks=[1])
    attached.heard("get_inspections", {"number": 1, "ranks": [1]})
    attached.loop.advance(WITHIN + 1.0)
    found = snapshot_from_json(client.next("answer")["snapshot"])
    assert ((), (0, 1)) == (found.inspections, found.silent)
    attached.snapshots.answered(1, 0, [{"rank": 1, "node": 0}], (), 0.0)  # too late


def test_collectives_of_all_nodes_and_how_their_clocks_differ(attached: Controller) -> None:
    attached.far[1].channel = Channel(reading=0, writing=1)
    attached.far[1].offset = 100.0
    client = attached.client()
    client.say("collectives")
    attached.heard("get_collectives", {"number": 1})
    attached.snapshots.answered(1, 1, (), [{"rank": 1, "group": "0", "seqs": [1], "created": [5.5]}], 1000.0)
    attached.snapshots.answered(1, 0, (), [{"rank": 0, "group": "0", "seqs": [1], "created": [5.0]}], 1099.5)
    answer = client.next("answer")
    assert [0, 1] == [times["rank"] for times in answer["times"]]
    assert [0.0, 0.5] == answer["clock_offsets"] and [] == answer["missing"]


def _of(fields: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(fields[name] for name in names)


def test_a_run_ends_when_its_owner_is_gone_for_the_lease(attached: Controller) -> None:
    """Not earlier, not while another connection of the owner exists, and it is reported once."""
    owner = attached.client(owner=True)
    owner.next("event")
    beat(attached, 2 * LEASE, owner)
    other = attached.client(want=False)
    other.next("event")
    owner.sock.close()
    beat(attached, LEASE - 5, other)
    assert ("forsaken", LEASE) not in attached.done
    back = attached.client(owner=True)
    back.next("event")
    beat(attached, 2 * LEASE, back, other)
    back.sock.close()
    beat(attached, LEASE + 5, other)
    beat(attached, 2 * LEASE, other)
    assert 1 == attached.done.count(("forsaken", LEASE))


def test_a_run_whose_owner_never_comes_ends_after_the_lease(attached: Controller) -> None:
    attached.loop.advance(LEASE - 2)
    assert [] == attached.done
    attached.loop.advance(4)
    assert [("forsaken", LEASE)] == attached.done


def test_a_run_ends_with_the_program_of_its_owner_on_this_machine(tmp_path: Path) -> None:
    """The end of its connection is the end of the program, unless it connects again at once."""
    near = Controller(tmp_path, attached=True, near=True)
    other, owner = near.client(want=False), near.client(owner=True)
    for client in (other, owner):
        client.next("event")
    owner.sock.close()
    near.heard("unsubscribe", {"reader": "viewer 2"})
    back = near.client(owner=True)
    back.next("event")
    beat(near, 10, back, other)
    assert "forsaken" not in [done[0] for done in near.done]
    back.sock.close()
    beat(near, 5, other)
    assert ("forsaken", 0.0) in near.done
    near.close()


def test_a_silent_owner_on_this_machine_is_there(tmp_path: Path) -> None:
    """A program that is stopped sends no heartbeats; its connection ends with it."""
    near = Controller(tmp_path, attached=True, near=True)
    owner = near.client(owner=True)
    owner.next("event")
    near.loop.advance(20 * LEASE, 1.0)
    assert not owner.hear() and near.done == [done for done in near.done if done[0] == "subscribe"]
    near.close()


def test_a_detached_run_needs_no_owner(tmp_path: Path) -> None:
    controller = Controller(tmp_path, attached=False)
    controller.loop.advance(10 * LEASE, 1.0)
    assert [] == controller.done
    controller.close()


def test_a_silent_client_is_gone_and_a_stopped_one_is_not(attached: Controller) -> None:
    """Ctrl-Z stops a terminal without heartbeats, which sends them again when it continues."""
    owner, silent = attached.client(owner=True), attached.client(want=False)
    owner.next("event")
    silent.next("event")
    owner.say("suspend")
    attached.loop.advance(20.0)
    attached.loop.until(silent.hear, "its connection is closed")
    attached.loop.advance(20 * LEASE, 1.0)
    assert not owner.hear() and ("forsaken", LEASE) not in attached.done
    owner.say("heartbeat")
    attached.loop.advance(20.0)
    attached.loop.until(owner.hear, "it is awake, and silent")
    attached.loop.advance(LEASE + 2)
    assert ("forsaken", LEASE) in attached.done


def test_a_request_to_end_the_run_is_answered(attached: Controller) -> None:
    client = attached.client()
    client.say("kill", by="somebody")
    assert "answer" == client.next("answer")["kind"]
    client.say("stop", number=2)
    client.say("forward_signal", number=10)
    attached.heard("pass", 10)
    assert [("asked", 0, "somebody"), ("asked", 2, ""), ("pass", 10)] == attached.done


def test_only_the_owner_sizes_the_terminals_of_ranks(attached: Controller) -> None:
    owner, other = attached.client(owner=True), attached.client(want=False)
    for client, rows in ((other, 10), (owner, 20)):
        client.next("event")
        client.say("resize", rows=rows, columns=80)
        client.say("state")
        client.next("answer")
    assert [{"rows": 20, "columns": 80}] == [done[-1] for done in attached.done if done[0] == "resize"]


def test_a_question_is_answered_once_all_connected_agents_have(attached: Controller) -> None:
    """The agent without a connection is reported as missing; one that does not answer is waited for until a timeout."""
    client = attached.client()
    client.say("stacks", ranks=[0])
    attached.loop.until(lambda: attached.done, "it is asked")
    number = attached.done[0][1]["number"]
    attached.viewers.answered(number, 0, texts={"0": "frame"}, mute={})
    assert ({"0": "frame"}, [1]) == _of(client.next("answer"), "texts", "missing")
    client.say("usage")
    attached.loop.until(lambda: len(attached.done) == 2, "it is asked")
    attached.loop.advance(5.0)
    assert [0, 1] == client.next("answer")["missing"]
    attached.viewers.answered(attached.done[1][1]["number"], 0, ranks={})
    client.say("state")
    assert "preparing" == client.next("answer")["phase"], "what comes too late is no answer"


def test_at_the_end_all_clients_are_notified_and_waited_for(attached: Controller) -> None:
    """Except for one that reads nothing: it has ten seconds."""
    client, stalled = attached.client(want=False), attached.client(want=False)
    client.next("event")
    stalled.next("event")
    attached.clients.remove(stalled)
    client.say("heartbeat")
    began, hear = attached.now(), client.hear

    def leave() -> bool:
        if hear() or any(fields["kind"] == "finished" for fields, _ in client.frames):
            client.sock.close()
            client.closed = True
        return client.closed

    client.hear = leave  # type: ignore[method-assign]
    attached.draining = True
    attached.viewers.close_all(RunResult(RunState.SUCCEEDED, 0, 1.0), complete=False)
    assert [False] == [fields["complete"] for fields, _ in client.frames if fields["kind"] == "finished"]
    assert 1 == len(attached.viewers.sessions) and 9 < attached.now() - began < 12
    stalled.sock.close()


def test_an_older_client_gets_the_version_in_its_own_field(attached: Controller) -> None:
    """Its `attach` was called `watch`, with the answer `run`: it cannot read the plan, and reports why."""
    client = attached.client()
    client.say("watch", want=False, offsets={}, tail=None, events=0, owner=False, version=4)
    assert ({}, VERSION) == _of(client.next("run"), "plan", "version")
    client.say("kill", by="somebody")
    assert "answer" == client.next("answer")["kind"], "questions have kept their names"


def test_random_frames_end_their_connection_and_nothing_else(attached: Controller) -> None:
    chance = random.Random(7)
    values = [None, -1, 1 << 70, "text", [1], {"0/0.out": -3}, {}, True, 1.5]
    kinds = ["attach", "credit", "stop", "forward_signal", "resize", "stdin", "stacks", "kill", "nonsense", "state"]
    names = ["want", "offsets", "tail", "events", "owner", "node", "count", "number", "rows", "columns", "at", "ranks"]
    for number in range(60):
        client = attached.client()
        if number % 3:
            fields = {name: chance.choice(values) for name in chance.sample(names, 5)}
            client.say(chance.choice(kinds), chance.randbytes(9), **fields)
        else:
            client.sock.sendall(chance.randbytes(chance.randrange(1, 200)))
        client.sock.shutdown(socket.SHUT_WR)
        attached.loop.until(client.hear, "it is closed")
        client.sock.close()
    assert [] == attached.viewers.sessions
    owner = attached.client(owner=True)
    owner.next("event")
