"""A controller with simulated agents, in one process: `simulated.py NODES WAY` prints what the end of the run costs.

Frames and events go through the controller, the supervisor in it, the lines of events.jsonl and the report: all but the
connections. One line of JSON: CPU seconds from the first exit of a rank to the report, the peak of the memory in MB,
the lines of the report. Of the three times that it is done, the least counts. The memory is that of Python's objects,
in a fourth time: what the imports freed, up to 11 MB, is used again before the process grows, so its size said nothing
of small runs and too much of the difference to large ones. bench/row_controller.py runs it.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from muster.controller.connections import AgentConnection
from muster.controller.controller import Controller
from muster.core.controller_config import ControllerConfig, NodeRecord
from muster.core.events import (
    JobEnding,
    PreemptionWarned,
    StopRequested,
    Tick,
)
from muster.core.layout import layout
from muster.core.model import Host, Job, Plan, Program
from muster.core.results import SIGINT, SIGTERM
from muster.launchers import make_plan
from muster.linux.eventloop import EventLoop
from muster.linux.writer import Writer
from muster.protocol.channel import Channel
from muster.rundir.run import Run
from muster.rundir.writer import RunWriter
from muster.ui.text import outcome_as_json, outcome_in_words

RANKS_A_NODE = 8


class BenchController(Controller):
    """One whose agents are this benchmark; what is written down is kept."""

    def __init__(self, loop: EventLoop, plan: Plan) -> None:
        links = [AgentConnection(node.number, node.host.name, Channel()) for node in plan.nodes]
        nodes = tuple(NodeRecord("/nowhere") for _ in plan.nodes)
        config = ControllerConfig(loop.time(), "127.0.0.1", 0.0, nodes)
        run = Run(Path("/nowhere"))
        super().__init__(loop, plan, run, links, config)
        self.scribe = RunWriter(Writer(loop), run, self.notify, "events.jsonl")  # its thread is never started
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
        world._count_registered(world._parts[link.node], 0, link.node)
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


def whole(way: Callable[[BenchController, int], None], plan: Plan, count: int) -> tuple[float, int]:
    """Return the CPU seconds of a controller from the first exit of a rank to the report, and the lines of that."""
    with EventLoop() as loop:
        world = BenchController(loop, plan)
        for node in plan.nodes:
            world.frame(node.number, "ready", fork=False, why="")
        world.frame(0, "store_opened", attempt=0, port=29500)
        began = time.process_time()
        way(world, count)
        assert world.outcome is not None, way.__name__
        json.dumps(outcome_as_json(world.outcome))
        report = outcome_in_words(world.outcome, world.run.id, plan.world_size, plan.hosts)
        return time.process_time() - began, len(report.splitlines() if isinstance(report, str) else list(report))


def peak_of(way: Callable[[BenchController, int], None], count: int, launcher: str) -> float:
    """Return the largest memory of all objects of a plan, its controller and the report at one time, in MB."""
    tracemalloc.start()
    whole(way, plan_of(count, launcher), count)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 2**20


def main() -> None:
    """Print what the end of a run costs."""
    nodes, name = int(sys.argv[1]), sys.argv[2]
    count = nodes * RANKS_A_NODE
    launcher = "torchrun" if WAYS[name] is started_by_torchrun else "exec"
    plan = plan_of(count, launcher)
    took, lines = whole(WAYS[name], plan, count)
    for _ in range(2):
        gc.collect()
        took = min(took, whole(WAYS[name], plan, count)[0])
    del plan
    gc.collect()
    print(json.dumps({"cpu": took, "memory": peak_of(WAYS[name], count, launcher), "report": lines}))


if __name__ == "__main__":
    main()
