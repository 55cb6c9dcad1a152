"""The supervisor and the channel as rule-based machines: any events in any order, and what always holds."""

from __future__ import annotations

import os
import socket
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from muster.core.events import (
    JOB_ENDS,
    Action,
    AgentReady,
    CleanedUp,
    Configured,
    Event,
    Finish,
    HangDetected,
    JobEnding,
    LogIncomplete,
    NodeLost,
    OpenStore,
    PreemptionWarned,
    RankExited,
    RanksMissed,
    RanksStarted,
    SignalRanks,
    SpareLost,
    StartFailed,
    StartRanks,
    StopRequested,
    StoreDied,
    StoreOpened,
    Tick,
)
from muster.core.results import (
    SIGHUP,
    SIGINT,
    SIGKILL,
    SIGTERM,
    Failure,
    FailureKind,
    Leftover,
    OnHang,
    Problem,
    ProblemKind,
    RunResult,
)
from muster.core.supervisor import Supervisor, SupervisorConfig
from muster.protocol.channel import Channel
from muster.protocol.frames import FrameDecoder, encode_frame
from muster.protocol.handshake import Seal
from muster.ui.text import outcome_as_json, outcome_in_words

# ---- the supervisor -------------------------------------------------------------------------------------------------

passed = st.sampled_from((0.0, 0.01, 0.5, 2.0, 6.0, 15.0, 100.0))
"""Seconds between two events."""
small = st.integers(0, 2)
failures = st.none() | st.builds(
    Failure,
    st.sampled_from(FailureKind),
    st.floats(0, 50),
    st.sampled_from(("ValueError: x", "RuntimeError: Connection closed by peer", "")),
    blames=st.lists(small, max_size=2).map(tuple),
    proven=st.booleans(),
)


class AnyRun(RuleBasedStateMachine):
    """A supervisor that gets any event at any time, also those that a faulty or hostile agent could cause."""

    def __init__(self) -> None:
        super().__init__()
        self.t = 0.0
        self.finishes: list[RunResult] = []
        self.started: list[int] = []
        self.supervisor = Supervisor(SupervisorConfig((0,), 1, (0,), 1.0))

    @initialize(
        node_of=st.lists(small, min_size=1, max_size=4).map(sorted),
        spares=st.integers(0, 2),
        restarts=st.integers(0, 3),
        always=st.booleans(),
        timeout=st.sampled_from((None, 5.0, 50.0)),
        grace=st.sampled_from((0.0, 1.0, 10.0)),
        foreign=st.frozensets(st.integers(0, 3)),
        on_hang=st.sampled_from(OnHang),
    )
    def begin(self, node_of: list[int], spares: int, restarts: int, always: bool, **more: Any) -> None:
        numbers = {node: number for number, node in enumerate(dict.fromkeys(node_of))}
        self.settings = SupervisorConfig(
            ranks=tuple(range(len(node_of))),
            nodes=len(numbers),
            node_of=tuple(numbers[node] for node in node_of),
            max_restarts=restarts,
            always_restart=always,
            hosts=tuple(f"n{number}" for number in range(len(numbers) + spares)),
            **more,
        )
        self.supervisor = Supervisor(self.settings)

    def happens(self, event: Event) -> None:
        """Give an event to the supervisor, and check what it does."""
        over = self.supervisor.over
        actions = self.supervisor.handle(event)
        assert not (over and actions), "nothing is done after the end"
        for action in actions:
            self.check(action)
        ends = [action for action in actions if isinstance(action, Finish)]
        assert not ends or actions[-1] is ends[0], "the end is the last action"
        self.finishes += [action.outcome for action in ends]

    def check(self, action: Action) -> None:
        if isinstance(action, StartRanks):
            assert action.attempt not in self.started, "no rank is started twice in an attempt"
            assert action.attempt == self.supervisor.attempt
            self.started.append(action.attempt)
        elif isinstance(action, SignalRanks):
            assert set(action.ranks) <= set(self.settings.ranks)
        elif isinstance(action, OpenStore):
            assert action.attempt not in self.started, "the store is there before the ranks"

    def later(self, seconds: float) -> float:
        self.t += seconds
        return self.t

    def node(self, number: int) -> int:
        return number % self.settings.nodes

    def rank(self, number: int) -> int:
        return number % len(self.settings.ranks)

    @rule(after=passed)
    def attempt_begins(self, after: float) -> None:
        """What agents report until all ranks run, so that most histories get there."""
        self.configured(after)
        self.all_ready(after)
        self.store_opened(after, None)
        for node in range(self.settings.nodes):
            self.ranks_started(after, node, None)

    @rule(after=passed)
    def all_succeed(self, after: float) -> None:
        for rank in self.supervisor.alive():
            self.happens(RankExited(self.later(after), rank, self.supervisor.attempt, code=0))

    @rule(after=passed)
    def configured(self, after: float) -> None:
        self.happens(Configured(self.later(after)))

    @rule(after=passed)
    def all_ready(self, after: float) -> None:
        for node in range(self.settings.nodes):
            self.happens(AgentReady(self.later(after), node))

    @rule(after=passed, attempt=st.none() | small)
    def store_opened(self, after: float, attempt: int | None) -> None:
        number = self.supervisor.attempt if attempt is None else attempt
        self.happens(StoreOpened(self.later(after), number, 29500))

    @rule(after=passed, node=small, attempt=st.none() | small)
    def ranks_started(self, after: float, node: int, attempt: int | None) -> None:
        number = self.supervisor.attempt if attempt is None else attempt
        self.happens(RanksStarted(self.later(after), self.node(node), number))

    @rule(
        after=passed,
        rank=st.integers(0, 3),
        attempt=st.none() | small,
        how=st.sampled_from(({"code": 0}, {"code": 1}, {"code": 7}, {"signal": 9}, {"signal": 15}, {})),
        failure=failures,
    )
    def rank_exited(self, after: float, rank: int, attempt: int | None, how: Any, failure: Failure | None) -> None:
        number = self.supervisor.attempt if attempt is None else attempt
        self.happens(RankExited(self.later(after), self.rank(rank), number, failure=failure, **how))

    @rule(after=passed, signal=st.sampled_from((0, SIGHUP, SIGINT, SIGTERM, SIGKILL)), released=st.booleans())
    def stop_requested(self, after: float, signal: int, released: bool) -> None:
        self.happens(StopRequested(self.later(after), signal, "ann", released=released))

    @rule(after=passed, node=small)
    def node_lost(self, after: float, node: int) -> None:
        self.happens(NodeLost(self.later(after), self.node(node), "it is gone"))

    @rule(after=passed, spare=small)
    def spare_lost(self, after: float, spare: int) -> None:
        if len(self.settings.hosts) > self.settings.nodes:
            spares = len(self.settings.hosts) - self.settings.nodes
            self.happens(SpareLost(self.later(after), self.settings.nodes + spare % spares, "it is gone"))

    @rule(after=passed, node=small)
    def start_failed(self, after: float, node: int) -> None:
        problems = (Problem(ProblemKind.OTHER, ("n0",), text="x"),)
        self.happens(StartFailed(self.later(after), self.node(node), problems))

    @rule(after=passed)
    def store_died(self, after: float) -> None:
        self.happens(StoreDied(self.later(after), code=1))

    @rule(after=passed, ranks=st.lists(small, max_size=3))
    def others_wait(self, after: float, ranks: list[int]) -> None:
        numbers = tuple(sorted({self.rank(rank) for rank in ranks}))
        self.happens(RanksMissed(self.later(after), self.supervisor.attempt, numbers, "they wait"))

    @rule(after=passed, cause=st.sampled_from(sorted(JOB_ENDS)), ranks=st.lists(small, max_size=3))
    def warned(self, after: float, cause: str, ranks: list[int]) -> None:
        numbers = tuple(sorted({self.rank(rank) for rank in ranks}))
        self.happens(PreemptionWarned(self.later(after), cause, numbers))

    @rule(after=passed, cause=st.sampled_from(sorted(JOB_ENDS)), within=passed)
    def job_ending(self, after: float, cause: str, within: float) -> None:
        self.happens(JobEnding(self.later(after), cause, within))

    @rule(after=passed, verdict=st.booleans())
    def hang(self, after: float, verdict: bool) -> None:
        words = ("rank 0 waits",) if verdict else ()
        self.happens(HangDetected(self.later(after), self.supervisor.attempt, 60.0, words))

    @rule(after=passed, node=small, rank=st.integers(0, 3))
    def log_incomplete(self, after: float, node: int, rank: int) -> None:
        attempt = self.supervisor.attempt
        event = LogIncomplete(self.later(after), self.node(node), attempt, self.rank(rank), "out", 7, "disk full")
        self.happens(event)

    @rule(after=passed, node=small)
    def cleaned_up(self, after: float, node: int) -> None:
        self.happens(CleanedUp(self.later(after), self.node(node), ended=(Leftover("sleep 9", 7, "S"),)))

    @rule()
    def time_passes(self) -> None:
        """The clock of the controller: a tick comes when it is due, and no sooner."""
        if self.supervisor.deadline is not None:
            self.t = max(self.t, self.supervisor.deadline)
            self.happens(Tick(self.t))

    @invariant()
    def one_end(self) -> None:
        assert len(self.finishes) == int(self.supervisor.over)
        assert self.started == sorted(self.started)
        for outcome in self.finishes:
            assert outcome.state.ended
            assert (outcome.code == 0) == (outcome.state == "succeeded")
            outcome_in_words(outcome, "x", ())
            outcome_as_json(outcome)

    def teardown(self) -> None:
        """If the user kills the run now, and all agents obey, it ends: no state waits for ever."""
        self.happens(StopRequested(self.later(0.1), 0, "ann"))
        for _ in range(50):
            if self.supervisor.over:
                break
            for rank in self.supervisor.alive():
                self.happens(RankExited(self.later(0.1), rank, self.supervisor.attempt, signal=9))
            for node in range(self.settings.nodes if hasattr(self, "settings") else 0):
                self.happens(CleanedUp(self.later(0.1), node))
            self.time_passes()
        assert self.supervisor.over or not hasattr(self, "settings"), "it waits for ever"


TestAnyRun = AnyRun.TestCase


# ---- the channel ----------------------------------------------------------------------------------------------------


class AnyConversation(RuleBasedStateMachine):
    """Two ends of a reliable channel, with authenticated frames, over connections that break at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = (Channel(keeps=True), Channel(keeps=True))
        self.said: tuple[list[int], list[int]] = ([], [])
        self.heard: tuple[list[int], list[int]] = ([], [])
        self.connections = 0

    @rule(which=st.integers(0, 1), size=st.sampled_from((0, 1, 100, 300_000)))
    def say(self, which: int, size: int) -> None:
        number = len(self.said[which])
        self.ends[which].send(encode_frame("say", b"x" * size, number=number, size=size))
        self.said[which].append(number)

    @precondition(lambda self: not self.ends[0].connected)
    @rule()
    def connect(self) -> None:
        """A new connection with new keys; each end reports how much it has heard."""
        self.connections += 1
        keys = [f"{self.connections} {which}".encode() for which in (0, 1)]
        for which, sock in enumerate(socket.socketpair()):
            sock.setblocking(False)
            decoder = FrameDecoder(seal=Seal(keys[1 - which]))
            heard = self.ends[1 - which].received
            self.ends[which].connect(sock.fileno(), os.dup(sock.detach()), decoder, heard, Seal(keys[which]))

    @precondition(lambda self: self.ends[0].connected)
    @rule()
    def cut(self) -> None:
        """What is on its way is lost."""
        for end in self.ends:
            os.close(end.reading)
            os.close(end.writing)
            end.disconnect()

    @precondition(lambda self: self.ends[0].connected)
    @rule(which=st.integers(0, 1), reads=st.integers(0, 3))
    def turn(self, which: int, reads: int) -> None:
        end = self.ends[which]
        assert end.flush()
        for _ in range(reads):
            found = end.read()
            assert found is not None, end.refused
            for fields, payload in found:
                assert len(payload) == fields["size"]
                self.heard[1 - which].append(fields["number"])

    @invariant()
    def once_and_in_order(self) -> None:
        for said, heard in zip(self.said, self.heard):
            assert heard == said[: len(heard)]

    def teardown(self) -> None:
        """Over a connection that lasts, everything arrives, and both ends know it."""
        if not self.ends[0].connected:
            self.connect()
        for _ in range(2000):
            self.turn(0, 1)
            self.turn(1, 1)
            if all(end.idle for end in self.ends):
                break
        assert self.heard == self.said
        assert all(end.idle for end in self.ends), "nothing is kept for ever"
        self.cut()


TestAnyConversation = AnyConversation.TestCase
