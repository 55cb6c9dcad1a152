"""A held session as a rule-based machine: runs, releases, broken connections, restarts of its controller, in any order.

The controller's part (`controller/held.py`) and the supervisor are real. Agents are modelled after `agent/held.py`:
what they send and get arrives in order, at any time.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from muster.controller.connections import TcpConnection
from muster.controller.held import HeldRuns
from muster.core.controller_config import ControllerConfig, NodeRecord
from muster.core.events import AgentReady, Configured, Event, Finish, JobEnding, StopRequested
from muster.core.layout import layout
from muster.core.model import Host, Job, Program, as_json
from muster.core.results import RunResult, RunState
from muster.core.supervisor import Phase, Supervisor, SupervisorConfig
from muster.launchers import make_plan
from muster.linux.processes import make_private
from muster.protocol.channel import Channel
from muster.protocol.sealing import unsealed
from muster.rundir.run import Run

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from manual_loop import ManualLoop

NODES = 3
IDLE = 60.0
which = st.integers(0, NODES - 1)
rarely = st.sampled_from((False,) * 7 + (True,))
answers = st.sampled_from(("taken", "taken", "taken", "fails early", "fails late"))
SECRET = "secret"


class Agent:
    """What the agent of a node does with the messages of the session's controller."""

    def __init__(self) -> None:
        self.inbox: list[tuple[str, bytes, dict[str, Any]]] = []
        self.outbox: list[tuple[str, dict[str, Any]]] = []
        self.hosted = ""
        self.stopping = False
        self.run_dir = ""

    def act(self, node: int, how: str) -> None:
        """Handle the next message; `how` a run that comes is taken."""
        kind, payload, fields = self.inbox.pop(0)
        if kind == "stop_run":
            self.stopping = bool(self.hosted)
            return
        order = json.loads(unsealed(SECRET, payload) if fields["sealed"] else payload)
        run_id, failed = fields["run_id"], "" if how == "taken" else f"it {how}"
        if self.hosted:
            failed, how = f"{self.hosted} is still here", "is refused"
        if how in ("taken", "fails late"):
            self.hosted, self.stopping, self.run_dir = run_id, False, order["configuration"]["run_dir"]
        self.outbox.append(("run_hosted", {"run_id": run_id, "failed": failed, "port": 7, "run_dir": ""}))
        if how == "fails late":
            self.leave()

    def leave(self) -> None:
        """The run that is here ends."""
        self.outbox.append(("run_left", {"run_id": self.hosted}))
        self.hosted, self.stopping = "", False


class World:
    """The controller of a session, as `HeldRuns` sees it."""

    def __init__(self, folder: Path, supervisor: Supervisor, agents: list[Agent], loop: ManualLoop):
        self.loop, self.secret, self.agents = loop, SECRET, agents
        job = Job(Program("command", ("true",)), "exec", "python3", "--python", "/", hold=IDLE)
        self.plan = make_plan(
            job, layout([(Host(f"n{number}"), 1) for number in range(NODES)]), "20261128-000000-abcdef"
        )
        self.run, self.supervisor = Run(folder), supervisor
        self.config = ControllerConfig(0.0, "127.0.0.1", 0.0, (NodeRecord(str(folder)),) * NODES)
        self.far = [TcpConnection(number, f"n{number}", 0.0, {}) for number in range(NODES)]
        for link in self.far:
            link.channel = Channel(reading=0, writing=1)
        self.gone = False
        """Killed: its timers do nothing."""
        self.finished: list[RunResult] = []
        self.asked_to_stop: list[Event] = []

    def now(self) -> float:
        return self.loop.time()

    def handle(self, event: StopRequested | JobEnding) -> None:
        if self.gone:
            return
        self.asked_to_stop.append(event)
        for action in self.supervisor.handle(event):
            if isinstance(action, Finish):
                self.finished.append(action.outcome)

    def record(self, kind: str, fields: object) -> None:
        json.dumps(fields)

    def send_message(self, node: int, kind: str, payload: bytes = b"", /, **fields: Any) -> None:
        if not self.gone:
            self.agents[node].inbox.append((kind, payload, fields))


class AnySession(RuleBasedStateMachine):
    """Clients, agents and a controller of a session."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = ManualLoop()
        self.agents = [Agent() for _ in range(NODES)]
        self.replies: dict[str, list[dict[str, Any]]] = {}
        """The answers to each request to begin a run that the living controller has got, by the id of the run."""
        self.released: list[list[dict[str, Any]]] = []
        self.count = 0
        self.restarted = False
        """Whether the controller may not know of a run that an agent still tells it of."""

    @initialize()
    def hold(self) -> None:
        self.supervisor = Supervisor(SupervisorConfig(tuple(range(NODES)), NODES, tuple(range(NODES)), 5.0))
        self.world = World(self.folder, self.supervisor, self.agents, self.loop)
        self.held = HeldRuns(self.world, IDLE)
        for event in (Configured(0.0), *(AgentReady(0.0, node) for node in range(NODES))):
            self.supervisor.handle(event)

    @property
    def ending(self) -> bool:
        return self.held._ending or self.supervisor.phase is not Phase.STARTING

    # ---- clients ----------------------------------------------------------------------------------------------------

    @rule(nodes=st.integers(1, NODES))
    def begins(self, nodes: int) -> None:
        self.count += 1
        run_id = f"run-{self.count}"
        run_dir = str(self.folder / run_id)
        order: dict[str, Any] = {
            "run_id": run_id,
            "config": {"nodes": [{"run_dir": run_dir}] * nodes},
            "parts": [{"clock": 1.0, "run_dir": run_dir}] * nodes,
            "age": 0.1,
            "wall": 5.0,
            "secret": "x",
            "lease": 30.0,
            "script": {},
            "umask": None,
            "files": {},
            "function": "",
            "inherited": None,
        }
        answers = self.replies[run_id] = []
        self.held.begin(order, lambda answer: answers.append(dict(answer)))

    @rule(sure=rarely, how=st.sampled_from(("released", "forced", "killed", "job ends")))
    def ends(self, sure: bool, how: str) -> None:
        """Rarely, as little happens afterwards; a release is refused while a run is there."""
        if how == "released" or (sure and how == "forced"):
            self.is_released(how == "forced")
        elif sure and how == "killed":
            self.held.stop(lambda: self.world.handle(StopRequested(self.world.now(), 15, "ann")), "ann")
        elif sure:
            self.held.job_ends(JobEnding(self.world.now(), "cancelled", 5.0))

    def is_released(self, force: bool) -> None:
        answers: list[dict[str, Any]] = []
        self.released.append(answers)
        self.held.release("ann", force, lambda answer: answers.append(dict(answer)))
        assert 1 == len(answers), "it answers at once"

    # ---- agents -----------------------------------------------------------------------------------------------------

    @rule(node=which, how=answers)
    def agent_acts(self, node: int, how: str) -> None:
        if self.agents[node].inbox and self.world.far[node].channel.connected:
            self.agents[node].act(node, how)

    @rule(node=which)
    def controller_hears(self, node: int) -> None:
        agent = self.agents[node]
        if agent.outbox and self.world.far[node].channel.connected:
            kind, fields = agent.outbox.pop(0)
            (self.held.hosted if kind == "run_hosted" else self.held.left)(node, **fields)

    @rule(nodes=st.permutations(range(NODES)), how=st.tuples(answers, answers, answers))
    def all_act(self, nodes: list[int], how: tuple[str, ...]) -> None:
        for node in nodes:
            self.agent_acts(node, how[node])
            self.controller_hears(node)

    @precondition(lambda self: any(agent.hosted for agent in self.agents))
    @rule(node=which, known=st.booleans())
    def run_ends(self, node: int, known: bool) -> None:
        """On one node, as others may still report; `known`: with a result, which its controller on node 0 writes."""
        agent = self.agents[node]
        if agent.hosted:
            if node == 0 and known:
                make_private(agent.run_dir)
                Run(Path(agent.run_dir)).write("outcome.json", as_json(RunResult(RunState.SUCCEEDED, 0, 1.0)))
            agent.leave()

    @rule(node=which, there=st.booleans())
    def connection(self, node: int, there: bool) -> None:
        """It breaks, or is made again: what was sent arrives later."""
        self.world.far[node].channel = Channel(reading=0, writing=1) if there else Channel()

    @rule(sure=rarely)
    def controller_restarts(self, sure: bool) -> None:
        """After kill -9: what it had sent and not yet got is lost, clients too, and agents tell it what is there."""
        if not sure:
            return
        self.world.gone = self.restarted = True
        self.world = World(self.folder, self.supervisor, self.agents, self.loop)
        self.held = HeldRuns(self.world, IDLE)
        self.replies = {}
        for agent in self.agents:
            agent.inbox.clear()
            agent.outbox.clear()
            if agent.hosted:
                there = {"run_id": agent.hosted, "failed": "", "port": 0, "run_dir": agent.run_dir}
                agent.outbox.append(("run_hosted", there))

    @rule(seconds=st.sampled_from((0.5, 0.5, 6.0)))
    def time_passes(self, seconds: float) -> None:
        self.loop.advance(seconds, 0.5)

    # ---- what always holds ------------------------------------------------------------------------------------------

    @invariant()
    def one_answer(self) -> None:
        if not hasattr(self, "held"):
            return
        for run_id, answers in self.replies.items():
            assert len(answers) <= 1, f"{run_id} is answered twice: {answers}"
            for answer in answers:
                assert ("run_dir" in answer) != ("refused" in answer)
                late = "still here" in answer.get("refused", "")
                assert not late or self.restarted, "it begins when the last one has left"
        state = self.held.state()
        assert (state["idle"] is None) or not state["run"]
        json.dumps(state)

    @invariant()
    def one_end(self) -> None:
        if hasattr(self, "world"):
            assert len(self.world.finished) <= 1

    def settle(self) -> None:
        """All connections are there, all runs end, and everything arrives."""
        for node in range(NODES):
            self.connection(node, True)
        for _ in range(8):
            for node, agent in enumerate(self.agents):
                while agent.inbox:
                    agent.act(node, "taken")
                while agent.outbox:
                    self.controller_hears(node)
                self.one_answer()
            for node in range(NODES):
                self.run_ends(node, True)
            self.loop.advance(1.0, 0.5)

    def teardown(self) -> None:
        """Everybody is answered, nothing is left on the agents, and the session takes a run or ends."""
        try:
            if hasattr(self, "held"):
                self.settle()
                assert all(len(answers) == 1 for answers in self.replies.values()), self.replies
                assert not self.held.state()["run"], "no run stays for ever"
                if not self.ending:
                    self.begins(NODES)
                    run_id = f"run-{self.count}"
                    for _ in range(3):
                        for node, agent in enumerate(self.agents):
                            while agent.inbox:
                                agent.act(node, "taken")
                            while agent.outbox:
                                self.controller_hears(node)
                    assert [{"run_dir": str(self.folder / run_id)}] == self.replies[run_id]
                    self.is_released(False)
                    assert "refused" in self.released[-1][0]
                    self.is_released(True)
                    self.settle()
                self.loop.advance(120.0, 1.0)
                assert self.supervisor.phase is not Phase.STARTING, "it ends"
        finally:
            self.loop.close()
            shutil.rmtree(self.folder)


TestAnySession = AnySession.TestCase
