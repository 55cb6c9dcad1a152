"""The controller of a run on node 0: agents that disconnect, reconnect or never connect, and its own restart.

All in one process, over socket pairs, with a clock that the test advances.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from manual_loop import ManualLoop

from muster.agent.dialer import Met
from muster.agent.log_streaming import KEEP
from muster.controller.detached import DetachedController
from muster.core.controller_config import ControllerConfig, NodeRecord
from muster.core.events import StopRequested
from muster.core.layout import layout
from muster.core.model import AUTHENTICATED, OPEN, Host, Job, Program
from muster.core.results import RunResult, RunState
from muster.core.supervisor import Phase
from muster.launchers import make_plan
from muster.protocol.channel import Channel
from muster.protocol.frames import FrameDecoder, encode_frame
from muster.rundir.run import Run

LEASE = 30.0
LATE = 15.0
"""Seconds by which an agent may start its lease later."""


class Agent:
    """The other end of the connection to one agent."""

    def __init__(self) -> None:
        self.wire = Channel(keeps=True)
        self.said: list[tuple[str, dict[str, Any]]] = []
        """Kinds and fields of the messages from the controller."""

    def say(self, kind: str, payload: bytes = b"", **fields: Any) -> None:
        self.wire.send(encode_frame(kind, payload, t=1000.0, **fields))
        self.wire.flush()

    def hear(self) -> None:
        for fields, _ in (self.wire.read() if self.wire.connected else None) or []:
            self.said.append((fields.pop("kind"), fields))

    def part(self) -> None:
        """Close the connection."""
        if self.wire.connected:
            os.close(self.wire.reading)
            os.close(self.wire.writing)
            self.wire.disconnect()


class Controller:
    """A controller of two nodes with a rank each, and their agents; `shared`: which of them see its run directory."""

    def __init__(
        self,
        folder: Path,
        shared: tuple[bool, ...] = (True, True),
        launcher: str = "exec",
        spare: bool = False,
        rendezvous: str = OPEN,
    ) -> None:
        self.loop, self.run = ManualLoop(), Run(folder)
        job = Job(Program("command", ("true",)), launcher, "python3", "--python", "/", lease=LEASE)
        job = job._replace(rendezvous=rendezvous)
        plan = make_plan(job, layout([(Host("n1"), 1), (Host("n2"), 1)]), "20261127-000000-abcdef")
        if spare:
            plan, shared = plan._replace(spares=(Host("n3"),)), (*shared, True)
        plan = self.run.plan or plan
        nodes = tuple(NodeRecord(str(folder), shared=one, host=f"n{at}") for at, one in enumerate(shared, 1))
        config = ControllerConfig(began=1000.0, address="10.0.0.1", clock=0.0, nodes=nodes)
        self.served = DetachedController(self.loop, plan, self.run, config, "secret")
        self.served.scribe.writer.start()
        self.agents = [Agent() for _ in shared]

    def connect(self, node: int, silent: bool = False) -> Agent:
        """Connect the agent of that node."""
        agent = self.agents[node]
        heard, (one, other) = self.served._expect(node), socket.socketpair()
        assert heard is not None
        for sock in (one, other):
            sock.setblocking(False)
        agent.wire.connect(one.fileno(), os.dup(one.detach()), heard=heard)
        self.served._agent_connected(node, Met(other.detach(), FrameDecoder(), agent.wire.received, None))
        return agent

    def hears(self, *said: Any) -> None:
        """Check that this message reaches the agents, with the given fields: (node, kind, fields)."""

        def come() -> bool:
            for agent in self.agents:
                agent.hear()
            return all(
                any(kind == one and fields.items() <= more.items() for one, more in self.agents[node].said)
                for node, kind, fields in said
            )

        self.loop.until(come, f"{said} comes")

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the recorded events of this kind."""
        return [event for event in map(json.loads, self.served.records) if event["event"] == kind]

    def says(self, text: str) -> None:
        """Check that the user is shown this message."""
        self.loop.until(lambda: any(text in event["text"] for event in self.events("say")), text)

    def running(self) -> None:
        """Connect both agents, and start the ranks."""
        for node in range(2):
            self.connect(node).say("ready", fork=False, why="")
        self.agents[0].say("store_opened", attempt=0, port=29500)
        self.hears((0, "start_ranks", {"attempt": 0}), (1, "start_ranks", {"attempt": 0}))
        assert self.served.supervisor.phase is Phase.RUNNING

    def outcome(self) -> dict[str, Any]:
        """Return the recorded result."""
        found: dict[str, Any] = json.loads((self.run.path / "outcome.json").read_text())
        return found

    def close(self) -> None:
        self.served.draining = True
        for agent in self.agents:
            agent.part()
        for link in self.served.far:
            if link.channel.connected:
                link.disconnect(self.served.loop)
        self.served.scribe.close()
        self.loop.close()


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    made = Controller(tmp_path)
    yield made
    made.close()


def lost(controller: Controller) -> list[tuple[int, str]]:
    """Return the lost nodes, and why."""
    return [(event["node"], event["why"]) for event in controller.events("lost")]


def test_an_agent_that_reconnects_has_missed_nothing(controller: Controller) -> None:
    controller.running()
    controller.agents[1].part()
    controller.loop.until(lambda: controller.served.far[1].disconnected_at is not None, "that is seen")
    controller.served.send_message(1, "forward_signal", number=10)
    controller.loop.advance(2.0)
    controller.connect(1)
    controller.says("n2 reconnected after 2s")
    controller.hears((1, "forward_signal", {"number": 10}))
    controller.loop.advance(2 * LEASE, 1.0)
    assert [] == lost(controller)


def test_a_signal_that_a_busy_machine_forwards_late_is_the_same_one(controller: Controller) -> None:
    controller.running()

    def forwarded(node: int, number: int, *ranks: int) -> None:
        link = controller.served.far[node]
        before = link.channel.received
        controller.agents[node].say("signal_forwarded", number=number, ranks=list(ranks))
        controller.loop.until(lambda: link.channel.received > before, "it comes")
        controller.loop.advance(1.0)

    def notices() -> list[str]:
        return [event["text"] for event in controller.events("say")]

    for node, ranks in ((0, [0]), (1, [])):
        forwarded(node, signal.SIGUSR1, *ranks)
    assert ["received SIGUSR1, forwarded to rank 0"] == notices()
    for node, ranks in ((0, []), (1, [1])):
        forwarded(node, signal.SIGUSR2, *ranks)
    assert [
        "received SIGUSR2, not forwarded: no rank handles it",
        "received SIGUSR2, forwarded to rank 1",
    ] == notices()[1:]
    forwarded(0, signal.SIGUSR1)
    assert "received SIGUSR1, not forwarded: no rank handles it" == notices()[-1], "it is another one"


def test_an_agent_that_closes_its_connection_reconnects_at_once_or_has_exited(controller: Controller) -> None:
    controller.running()
    controller.agents[1].part()
    controller.loop.until(lambda: controller.served.far[1].disconnected_at is not None, "that is seen")
    controller.loop.advance(2.5)
    assert [] == lost(controller)
    controller.loop.advance(1.0)
    assert [(1, "lost n2: muster's agent on it exited, and its ranks with it")] == lost(controller)
    assert controller.served._expect(1) is None, "its ranks count as ended, so it is let in no more"


def test_a_silent_machine_has_the_lease_and_the_maximum_delay(controller: Controller) -> None:
    """The kernel reports ETIMEDOUT then; here the error is simulated."""
    controller.running()
    link = controller.served.far[1]
    link.channel.timed_out = True
    controller.served._parted(link)
    controller.says("no answer from n2; waiting up to 30s for it to reconnect (--lease)")
    controller.loop.advance(LEASE + LATE - 1, 1.0)
    assert [] == lost(controller)
    controller.loop.advance(2.0)
    assert [(1, "lost n2: unreachable for 45s")] == lost(controller)


def test_the_agent_here_never_comes_again(controller: Controller) -> None:
    controller.running()
    controller.agents[0].part()
    controller.loop.until(lambda: lost(controller), "it is lost")
    assert [(0, "lost n1: muster's agent on it exited, and its ranks with it")] == lost(controller)


@pytest.mark.parametrize("text, why", [("Traceback …\nOSError: full\n", "OSError: full"), ("", "no reason given")])
def test_a_crashed_agent_is_lost_with_its_last_message_if_there_is_one(
    controller: Controller, text: str, why: str
) -> None:
    controller.running()
    controller.agents[1].say("agent_crashed", text=text, limit=False)
    controller.agents[1].part()
    controller.loop.until(lambda: lost(controller), "it is lost")
    assert [(1, f"the agent on n2 failed: {why}; see agent.log there")] == lost(controller)


def test_an_agent_that_never_connects_is_lost(tmp_path: Path) -> None:
    controller = Controller(tmp_path)
    for link in controller.served.far:
        controller.loop.call_later(20.0, lambda link=link: controller.served._never_called(link))  # type: ignore[misc]
    controller.connect(0)
    controller.loop.advance(21.0, 1.0)
    assert [(1, "the agent on n2 did not connect within 20s")] == lost(controller)
    controller.close()


def test_an_invalid_frame_ends_the_connection_and_the_run_waits_for_the_agent(controller: Controller) -> None:
    controller.running()
    os.write(controller.agents[1].wire.writing, b"\xff" * 8)
    controller.loop.until(lambda: controller.events("refused"), "it is refused")
    assert "closed the connection to n2: " in controller.events("refused")[0]["text"]
    controller.agents[1].part()
    controller.connect(1)
    controller.says("n2 reconnected after 0s")
    assert [] == lost(controller)


def state(controller: Controller, node: int, started: int, listened: int) -> None:
    """The message in which an agent reports its state to a new controller."""
    controller.connect(node).say("agent_state", started=started, listened=listened)


def test_a_restarted_controller_sends_each_agent_what_it_missed(tmp_path: Path) -> None:
    """The first one was killed after it had decided the start, which reached no agent."""
    before = Controller(tmp_path)
    before.running()
    before.close()
    controller = Controller(tmp_path)
    assert controller.served.supervisor.phase is Phase.RUNNING
    assert 1 == len(controller.events("supervisor began again"))
    state(controller, 0, started=-1, listened=0)
    state(controller, 1, started=0, listened=-1)
    controller.hears((0, "start_ranks", {"attempt": 0}))
    assert 29500 == int(controller.agents[0].said[0][1]["late"]["MASTER_PORT"]), "where the store listens already"
    controller.loop.until(lambda: 2 == len(controller.events("state")), "both are heard")
    controller.hears()
    assert [["start_ranks"], []] == [[kind for kind, _ in agent.said] for agent in controller.agents]
    controller.close()


def test_a_signal_that_reached_no_agent_before_the_controller_was_killed_is_sent_again(tmp_path: Path) -> None:
    """The rank got SIGKILL after the grace time, without the SIGTERM on which it would have saved a checkpoint."""
    before = Controller(tmp_path)
    before.running()
    before.agents[1].part()
    before.served.handle(StopRequested(before.served.now(), signal.SIGTERM))
    before.hears((0, "signal_ranks", {"number": signal.SIGTERM, "ranks": [0]}))
    before.close()
    controller = Controller(tmp_path)
    for node, signals in ((0, 1), (1, 0)):
        controller.connect(node).say("agent_state", started=0, listened=0, signals=signals)
    controller.hears((1, "signal_ranks", {"number": signal.SIGTERM, "ranks": [1]}))
    controller.loop.until(lambda: 2 == len(controller.events("state")), "both are heard")
    controller.hears()
    assert [] == controller.agents[0].said, "it has had the signal"
    controller.close()


def test_connections_to_a_store_on_loopback_are_forwarded_between_its_agent_and_the_others(tmp_path: Path) -> None:
    controller = Controller(tmp_path, rendezvous=AUTHENTICATED)
    controller.running()
    first, second = ({**agent.said[-1][1]} for agent in controller.agents)
    assert {"127.0.0.1"} == {fields["late"]["MASTER_ADDR"] for fields in (first, second)}
    assert [False, True] == ["store_node" in fields for fields in (first, second)] and 0 == second["store_node"]
    controller.served.open_store(0, 1)
    controller.hears((0, "open_store", {"host": "127.0.0.1", "relays": True}))
    at = {"attempt": 0, "number": 7}
    controller.agents[1].say("relay", b"ask", **at, node=0, offset=3, last=True)
    controller.hears((0, "relay", {**at, "node": 1, "offset": 3, "last": True}))
    controller.agents[0].say("relay_taken", b"", **at, node=1, upto=6)
    controller.agents[0].say("relay_end", b"", **at, node=1)
    controller.agents[0].say("relay_end", b"", **at, node=99)
    controller.hears((1, "relay_taken", {**at, "node": 0, "upto": 6}), (1, "relay_end", {**at, "node": 0}))
    assert [] == lost(controller), "a node that does not exist is no reason to end a run"
    controller.close()


def test_nothing_is_forwarded_if_the_store_has_a_port_of_its_own(controller: Controller) -> None:
    controller.running()
    assert "10.0.0.1" == controller.agents[1].said[-1][1]["late"]["MASTER_ADDR"]
    assert "store_node" not in controller.agents[1].said[-1][1]
    controller.agents[1].say("relay_end", attempt=0, node=0, number=1)
    controller.agents[1].say("note", text="after that")
    controller.says("after that")
    controller.hears()
    assert "relay_end" not in [kind for kind, _ in controller.agents[0].said]


def test_a_controller_killed_while_it_wrote_an_event_is_restarted_twice(tmp_path: Path) -> None:
    """The incomplete line was continued by the next event, and the second restart did not understand it."""
    before = Controller(tmp_path)
    before.running()
    before.close()
    with open(tmp_path / "events.jsonl", "a") as file:
        file.write('{"event": "say", "te')
    for restart in (1, 2):
        controller = Controller(tmp_path)
        assert controller.served.supervisor.phase is Phase.RUNNING
        assert restart == len(controller.events("supervisor began again"))
        controller.close()
        assert len(controller.run.events()) == len(controller.served.records), "all lines are complete"


def test_a_controller_restarted_before_the_start_lets_node_0_listen(tmp_path: Path) -> None:
    before = Controller(tmp_path)
    before.connect(1).say("ready", fork=False, why="")
    before.loop.until(lambda: before.events("ready"), "one is ready")
    before.close()
    controller = Controller(tmp_path)
    assert controller.served.supervisor.phase is Phase.STARTING
    state(controller, 1, started=-1, listened=-1)
    state(controller, 0, started=-1, listened=-1)
    controller.hears((0, "open_store", {"attempt": 0, "host": "10.0.0.1"}))
    assert [] == controller.agents[1].said
    controller.close()


@pytest.mark.parametrize("rank", [0, 2])
def test_a_wrong_world_size_is_reported_whichever_rank_registers_first(tmp_path: Path, rank: int) -> None:
    """A rank unknown to the plan is refused by its agent, and may be the only one that has registered so far."""
    controller = Controller(tmp_path, launcher="torchrun")
    controller.running()
    controller.agents[0].say("rank_registered", attempt=0, rank=rank, launcher="torchrun", world_size=3)
    text = "torchrun started a world of 3, requested: 2 ranks"
    controller.loop.until(lambda: controller.events("ended"), "those that have not are given up")
    count, given_up = (1, [1]) if rank == 0 else (0, [0, 1])
    assert given_up == [event["rank"] for event in controller.events("ended")]
    for event in controller.events("ended"):
        assert f"never registered ({count} of 2 ranks did): {text}" == event["failure"]["summary"]
    controller.close()


def test_gaps_in_copies_of_logs_are_in_the_result_even_after_a_hurried_end(tmp_path: Path) -> None:
    """The agents are not waited for then; received data is still written, or counted."""
    (tmp_path / "attempt_0").write_text("this is no folder")
    controller = Controller(tmp_path, shared=(True, False))
    link = controller.served.far[1]
    place = {"rank": 1, "stream": "out", "attempt": 0, "offset": 0}
    controller.served._on_output(link, 0.0, b"lines\n", reader=KEEP, **place)
    controller.served.hurry = True
    controller.served._end(RunResult(RunState.SUCCEEDED, 0, 1.0))
    (lacks,) = controller.outcome()["unlogged"]
    assert (1, "out", 6) == (lacks["rank"], lacks["stream"], lacks["missing"])
    assert " on n1; the complete log is on n2" in lacks["why"]
    controller.close()


# ---- spare hosts -----------------------------------------------------------------------------------------------------


def loses_n2(controller: Controller) -> None:
    """The agent on n2 exits while ranks run; that on n1 ends its rank."""
    controller.running()
    controller.agents[1].part()
    controller.loop.until(lambda: controller.served.far[1].disconnected_at is not None, "that is seen")
    controller.loop.advance(4.0)
    controller.hears((0, "signal_ranks", {"number": 15}))
    controller.agents[0].say("rank_exited", attempt=0, rank=0, code=None, signal=15)
    controller.hears((0, "clean_up", {}))
    controller.agents[0].say("cleaned_up", ended=[], left=[])


def test_a_spare_host_takes_the_place_of_a_lost_one(tmp_path: Path) -> None:
    controller = Controller(tmp_path, spare=True)
    controller.connect(2).say("agent_state", started=-1, listened=-1)
    loses_n2(controller)
    controller.hears((2, "take_place", {"node": 1}), (0, "open_store", {"attempt": 1}))
    controller.says("n3 takes the place of n2; restarting all ranks")
    controller.agents[0].say("store_opened", attempt=1, port=29501)
    controller.agents[2].say("ready", fork=False, why="")
    controller.hears((0, "start_ranks", {"attempt": 1}), (2, "start_ranks", {"attempt": 1}))
    assert controller.served._expect(1) is None, "n2 is let in no more"
    controller.served.scribe.writer.drain()
    written = controller.run.plan
    assert written is not None
    assert ("n1", "n3") == written.hosts
    controller.close()


@pytest.mark.parametrize("after", [False, True], ids=["before it has the place", "after that"])
def test_a_restarted_controller_knows_who_has_whose_place(tmp_path: Path, after: bool) -> None:
    before = Controller(tmp_path, spare=True)
    before.connect(2)
    loses_n2(before)
    before.hears((2, "take_place", {"node": 1}))
    before.agents[0].say("store_opened", attempt=1, port=29501)
    before.loop.until(lambda: before.served.supervisor.port, "the port is known")
    if after:
        before.agents[2].say("ready", fork=False, why="")
        before.hears((2, "start_ranks", {"attempt": 1}))
    before.close()
    controller = Controller(tmp_path, spare=True)
    assert ["n1", "n3"] == [link.host for link in controller.served.far]
    state(controller, 0, started=1 if after else 0, listened=1)
    state(controller, 2, started=1 if after else -1, listened=-1)
    if after:
        controller.loop.until(lambda: 2 == len(controller.events("state")), "both are heard")
        controller.hears()
        assert [] == controller.agents[2].said
    else:
        controller.hears((2, "take_place", {"node": 1}))
        controller.agents[2].say("ready", fork=False, why="")
        controller.hears((2, "start_ranks", {"attempt": 1}))
    for node in (0, 1):
        controller.agents[2 * node].say("rank_exited", attempt=1, rank=node, code=0, signal=None)
    controller.hears((0, "clean_up", {}), (2, "clean_up", {}))
    for node in (0, 1):
        controller.agents[2 * node].say("cleaned_up", ended=[], left=[])
    controller.loop.until(lambda: controller.served.outcome, "the end")
    outcome = controller.served.outcome
    assert outcome is not None
    assert [(1, "n2", "n3", 1)] == [(one.node, one.host, one.by, one.attempt) for one in outcome.replaced]
    controller.close()


def test_a_spare_host_that_is_lost_ends_nothing(tmp_path: Path) -> None:
    controller = Controller(tmp_path, spare=True)
    controller.connect(2)
    controller.running()
    controller.agents[2].part()
    controller.loop.until(lambda: controller.served.every[2].disconnected_at is not None, "that is seen")
    controller.loop.advance(4.0)
    controller.says("warning: spare host n3: lost n3: muster's agent on it exited, and its ranks with it")
    assert controller.served.supervisor.phase is Phase.RUNNING
    controller.close()
