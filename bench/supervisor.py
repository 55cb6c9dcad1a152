"""CPU seconds that a controller takes for the ends of all ranks, by their number: they must grow as the ranks do.

    python bench/supervisor.py

Each row is a way for a run to end. Its frames and events go through the controller, the supervisor in it, the lines of
events.jsonl and the report: all but the connections. The first row is the supervisor alone. 4,096 ranks may cost 8
times what 1,024 cost, where 4 times is linear; if any costs more, the exit status is 1.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from muster.controller.connections import AgentConnection
from muster.controller.controller import Controller, settings_of
from muster.core.controller_config import ControllerConfig, NodeRecord
from muster.core.events import (
    AgentReady,
    CleanedUp,
    JobEnding,
    PreemptionWarned,
    RankExited,
    StopRequested,
    StoreOpened,
    Tick,
)
from muster.core.layout import layout
from muster.core.model import Host, Job, Plan, Program
from muster.core.results import SIGINT, SIGTERM
from muster.core.supervisor import Supervisor
from muster.launchers import make_plan
from muster.linux.eventloop import EventLoop
from muster.protocol.channel import Channel
from muster.rundir.run import Run
from muster.ui.text import outcome_as_json, outcome_in_words

RANKS_A_NODE = 8
SIZES = (1024, 2048, 4096, 8192)
MOST = 8.0
"""4,096 ranks may cost so many times what 1,024 do."""


class BenchController(Controller):
    """One whose agents are this benchmark; what is written down is kept."""

    def __init__(self, loop: EventLoop, plan: Plan) -> None:
        links = [AgentConnection(node.number, node.host.name, Channel()) for node in plan.nodes]
        nodes = tuple(NodeRecord("/nowhere") for _ in plan.nodes)
        config = ControllerConfig(loop.time(), "127.0.0.1", 0.0, nodes)
        super().__init__(loop, plan, Run(Path("/nowhere")), links, config)
        self.records: list[str] = []

    def record(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Keep an event, as a line of events.jsonl."""
        self.records.append(json.dumps({"event": kind, **fields}))

    def notify(self, text: str) -> None:
        """Keep words for the person."""
        self.record("say", {"text": text})

    def begin(self) -> None:
        """Keep what is known when the ranks start."""
        self.record("begin", {"facts": self.facts})

    def frame(self, node: int, kind: str, **fields: Any) -> None:
        """An agent says this."""
        self.receive(self.links[node], [({"kind": kind, "t": self.began + 1.0, **fields}, b"")])

    def node_of(self, rank: int) -> int:
        """Where a rank is."""
        return rank // RANKS_A_NODE

    def end(self, rank: int, code: int | None = None, signal: int | None = None) -> None:
        """A rank ends."""
        why = {"kind": "ended", "t": self.began + 1.0, "summary": "", "frames": []} if code else None
        self.frame(
            self.node_of(rank), "rank_exited", attempt=0, rank=rank, code=code, signal=signal, why=why, asked=None
        )

    def sweep(self) -> None:
        """Nothing is left on any node."""
        for link in self.links:
            self.frame(link.node, "cleaned_up", ended=[], left=[])


def end_well(world: BenchController, count: int) -> None:
    """With exit status 0."""
    for rank in range(count):
        world.end(rank, code=0)
    world.sweep()


def one_fails(world: BenchController, count: int) -> None:
    """And the others end when they are asked to."""
    world.end(0, code=1)
    for rank in range(1, count):
        world.end(rank, signal=SIGTERM)
    world.sweep()


def all_fail(world: BenchController, count: int) -> None:
    """Each in another way."""
    for rank in range(count):
        world.end(rank, code=1 + rank % 200)
    world.sweep()


def interrupted(world: BenchController, count: int) -> None:
    """By Ctrl-C, which half of the ranks do not obey."""
    world.handle(StopRequested(2.0, SIGINT))
    for rank in range(0, count, 2):
        world.end(rank, signal=SIGINT)
    world.handle(Tick(40.0))
    for rank in range(1, count, 2):
        world.end(rank, signal=SIGTERM)
    world.sweep()


def leave_as_told(world: BenchController, count: int) -> None:
    """One after another, before the time limit of the job."""
    for link in world.links:
        ranks = tuple(rank.rank for rank in world.plan.nodes[link.node].ranks)
        world.handle(PreemptionWarned(2.0, "time limit", ranks))
    for rank in range(count):
        world.end(rank, code=1)
    world.handle(JobEnding(3.0, "time limit", 30.0))
    world.sweep()


def all_hosts_lost(world: BenchController, count: int) -> None:
    """One after another."""
    for link in world.links:
        world.lost(link, f"the agent on {link.host} was unreachable for 45s")


def full_disks(world: BenchController, count: int) -> None:
    """On all hosts: no log can be written, and then again."""
    for going_on in (True, False):
        for rank in range(count):
            for stream in ("out", "err"):
                lacks = {"missing": 10, "why": "No space left on device", "going_on": going_on}
                world.frame(world.node_of(rank), "unlogged", attempt=0, rank=rank, stream=stream, **lacks)
    end_well(world, count)


def started_by_torchrun(world: BenchController, count: int) -> None:
    """Ranks of an external launcher register, all but the last of each node, and the launchers fail."""
    for rank in range(count):
        if rank % RANKS_A_NODE < RANKS_A_NODE - 1:
            joined = {"attempt": 0, "rank": rank, "launcher": "torchrun", "world_size": count}
            world.frame(world.node_of(rank), "rank_registered", **joined)
    for link in world.links:
        ended: dict[str, Any] = {"attempt": 0, "code": 1, "signal": None, "name": "torchrun", "words": []}
        world.frame(link.node, "launcher_exited", **ended)
        world._count_registered(0, link.node)
    for rank in range(count):
        if rank % RANKS_A_NODE < RANKS_A_NODE - 1:
            world.end(rank, signal=SIGTERM)
    world.sweep()


WAYS: Mapping[str, Callable[[BenchController, int], None]] = {
    "all end well": end_well,
    "one fails": one_fails,
    "all fail": all_fail,
    "Ctrl-C": interrupted,
    "a time limit": leave_as_told,
    "all hosts are lost": all_hosts_lost,
    "full disks": full_disks,
    "torchrun fails": started_by_torchrun,
}
"""Ways for a run to end."""


def plan_of(count: int, launcher: str) -> Plan:
    """That of so many ranks, 8 on each node."""
    job = Job(Program("command", ("true",)), launcher, "python3", "--python", "/")
    hosts = [(Host(f"n{node + 1}"), RANKS_A_NODE) for node in range(count // RANKS_A_NODE)]
    return make_plan(job, layout(hosts), "20261127-000000-abcdef")


def alone(plan: Plan, count: int) -> float:
    """CPU seconds of the supervisor for ranks that end well."""
    supervisor = Supervisor(settings_of(plan))
    for node in plan.nodes:
        supervisor.handle(AgentReady(0.0, node.number))
    supervisor.handle(StoreOpened(0.0, 0, 29500))
    began = time.process_time()
    for rank in range(count):
        supervisor.handle(RankExited(1.0, rank, 0, 0))
    for node in plan.nodes:
        supervisor.handle(CleanedUp(2.0, node.number))
    assert supervisor.over
    return time.process_time() - began


def whole(way: Callable[[BenchController, int], None], plan: Plan, count: int) -> float:
    """CPU seconds of a controller from the first end of a rank to the report."""
    with EventLoop() as loop:
        world = BenchController(loop, plan)
        for node in plan.nodes:
            world.frame(node.number, "ready", fork=False, why="")
        world.frame(0, "store_opened", attempt=0, port=29500)
        began = time.process_time()
        way(world, count)
        assert world.outcome is not None, way.__name__
        json.dumps(outcome_as_json(world.outcome))
        outcome_in_words(world.outcome, world.run.id, plan.world_size, plan.hosts)
        return time.process_time() - began


def main() -> int:
    """Print the table; 1 if a row of it is not linear."""
    rows: dict[str, dict[int, float]] = {}
    for count in SIZES:
        plans = {name: plan_of(count, name) for name in ("exec", "torchrun")}
        rows.setdefault("supervisor alone", {})[count] = min(alone(plans["exec"], count) for _ in range(3))
        for name, way in WAYS.items():
            plan = plans["torchrun" if way is started_by_torchrun else "exec"]
            gc.collect()
            rows.setdefault(name, {})[count] = min(whole(way, plan, count) for _ in range(3))
    print(f"{'ms of CPU for the end of':<24}" + "".join(f"{count:>8}" for count in SIZES) + "   4096 : 1024")
    for name, took in rows.items():
        cells = "".join(f"{seconds * 1000:8.0f}" for seconds in took.values())
        print(f"{name:<24}{cells}   {took[4096] / took[1024]:8.1f}")
    return int(any(took[4096] > MOST * took[1024] for took in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
