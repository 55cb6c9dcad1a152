"""Runs of each kind for the tests of the report, as values and as a run directory."""

from __future__ import annotations

import json
from pathlib import Path

from muster.core.comparison import Difference, RunFacts, Topic
from muster.core.inspection import CollectiveRecord, GroupState, Inspection, Snapshot, SnapshotReason
from muster.core.layout import layout
from muster.core.model import Host, Job, Plan, Program, as_json
from muster.core.provenance import ChangedFile, GitState, Provenance, provenance_as_json
from muster.core.results import Failure, FailureKind, LostNode, RankExit, RunResult, RunState, StopKind, StopReason
from muster.diagnostics.hangs import verdict
from muster.report.data import (
    Attempt,
    LogEnd,
    Look,
    NodeStart,
    RankSpan,
    RankText,
    ReportData,
    Resource,
    Series,
)
from muster.rundir.run import Run
from muster.ui.summary import Step
from muster.ui.text import outcome_as_json

TRACEBACK = """Traceback (most recent call last):
  File "/home/ann/project/train.py", line 21, in <module>
    main()
  File "/home/ann/project/train.py", line 17, in main
    loss = step(model, batch, labels)
  File "/home/ann/project/train.py", line 9, in step
    raise ValueError(f"bad label {label}")
ValueError: bad label -7"""

LOST = """Traceback (most recent call last):
  File "/home/ann/project/train.py", line 18, in main
    dist.all_reduce(loss)
  File "/venv/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py", line 2810, in all_reduce
    work.wait()
RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:41324"""

NODE = Provenance(
    0,
    "3.11.7",
    "/venv/bin/python",
    "2.6.0",
    cuda="12.4",
    packages={f"package-{number}": f"1.{number}" for number in range(180)},
    git=GitState("/home/ann/project", "4f6d2c81a9b3" + "0" * 28, "main", (ChangedFile("train.py", "M", 3, 1, "d1"),)),
    variables=("CUDA_HOME", "HOME", "NCCL_DEBUG", "PATH"),
    kernel="6.8.0-45-generic",
    cpu="AMD EPYC 9354 32-Core Processor",
    cores=32,
    memory=512 << 30,
    gpus=("NVIDIA H100", "NVIDIA H100"),
    driver="550.54.15",
)
BEFORE = RunFacts("20261121-090000-aaaa0000aaaa-train", state="succeeded", started=1.0, duration=5400.0)
BEFORE = BEFORE._replace(provenance=(NODE,))


def end(rank: int, when: float, code: int | None = None, signal: int | None = None, **more: bool) -> RankExit:
    """How a rank of two nodes with two ranks each ended."""
    return RankExit(rank, rank // 2, when, code, signal, **more)


def attempt(ends: list[RankExit], number: int = 0, began: float = 1.2, first: int | None = None) -> Attempt:
    """An attempt in which these ranks ended so."""
    spans = tuple(
        RankSpan(each.rank, each.node, began + 0.1, min(began + 1.5 + each.rank / 10, each.when), each.when, each)
        for each in ends
    )
    root = next((each for each in ends if each.rank == first), None)
    return Attempt(number, began, max(each.when for each in ends), spans, root)


def data(state: RunState, code: int, duration: float, ends: list[RankExit], first: int | None = None) -> ReportData:
    """The report of a run of four ranks on two hosts with this result."""
    root = next((each for each in ends if each.rank == first), None)
    outcome = RunResult(state, code, duration, root_cause=root, exits=tuple(ends))
    steps = ((Step.REACH, 0.42), (Step.PYTHON, 0.05), (Step.IMPORT, 1.31), (Step.PREPARE_FORK, 0.02))
    return ReportData(
        "20261121-120000-bbbb0000bbbb-train",
        "20261121-120000-bbbb0000bbbb-train",
        "",
        "muster run --hosts n1,n2 -g 2 train.py --lr 0.1 --data /datasets/imagenet/train",
        "/home/ann/project on desk",
        "2026-11-21 13:00:00 CET",
        str(state),
        "2026-11-21 13:02:00 CET",
        "0.1.0",
        "fork",
        ("n1", "n2"),
        4,
        outcome,
        duration,
        (attempt(ends, first=first),) if ends else (),
        (NodeStart(0, (*steps, (Step.FIRST_OUTPUT, 0.3))), NodeStart(1, (*steps, (Step.FIRST_OUTPUT, 0.5)))),
        provenance=(NODE, Provenance(1, "3.11.7", "/venv/bin/python", "2.6.0", **_machine())),
        options=(("--launcher", "fork"), ("--max-restarts", "3"), ("ranks", "4")),
    )


def _machine() -> dict[str, object]:
    names = ("kernel", "cpu", "cores", "memory", "gpus", "driver", "cuda")
    return {name: getattr(NODE, name) for name in names}


def failure(kind: FailureKind, when: float, text: str) -> Failure:
    lines = tuple(text.split("\n"))
    return Failure(kind, when, lines[-1], lines)


def _exception() -> ReportData:
    raised = end(2, 9.6, 1)._replace(failure=failure(FailureKind.EXCEPTION, 9.5, TRACEBACK))
    lost = failure(FailureKind.PEER_LOST, 9.6, LOST)
    ends = [end(0, 9.8, 1)._replace(failure=lost), end(1, 9.8, 1)._replace(failure=lost), raised]
    ends.append(end(3, 10.4, signal=15, by_muster=True))
    found = data(RunState.FAILED, 1, 10.5, ends, 2)
    log = [f"[{step:05d}] loss {2.5 / (step + 1):.4f}  412 samples/s" for step in range(20)]
    return found._replace(
        tracebacks=(RankText((2,), TRACEBACK), RankText((0, 1, 3), LOST)),
        logs=(
            LogEnd(2, 0, "err", tuple(TRACEBACK.split("\n"))),
            LogEnd(2, 0, "out", tuple(log), True),
            LogEnd(0, 0, "err", tuple(LOST.split("\n"))),
        ),
        before=BEFORE,
        changes=(
            Difference(Topic.CODE, "commit", "0b1a7c2d9e8f", "4f6d2c81a9b3"),
            Difference(Topic.CODE, "train.py", "as committed", "+3 −1 lines"),
            Difference(Topic.PACKAGES, "numpy", "1.26.4", "2.0.0"),
            Difference(Topic.HOSTS, "hosts", "n[1-2]", "n[1,3]"),
        ),
        resources=_resources(10.5),
    )


def _resources(until: float) -> tuple[Series, ...]:
    steps = [(number, until * number / 40) for number in range(41)]
    cpu = [tuple((at, 40.0 + 5 * node + 12 * (number % 3)) for number, at in steps) for node in (0, 1)]
    memory = [tuple((at, (1 << 30) + at * (60 + 9 * rank) * (1 << 20)) for _, at in steps) for rank in range(4)]
    return (
        *(Series(Resource.NODE_CPU, node, points=points) for node, points in enumerate(cpu)),
        *(Series(Resource.MEMORY, rank // 2, rank, points=points) for rank, points in enumerate(memory)),
        Series(Resource.GPU, 0, gpu=1, points=tuple((at, 50.0 + 30 * (number % 2)) for number, at in steps)),
    )


STACK = """Thread 0x00007f3a2cdfe6c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 324 in wait
  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap

Current thread 0x00007f3a5d6f8740 (most recent call first):
  File "{0}", line {1} in {2}
  File "/home/ann/project/train.py", line 88 in main
  File "/home/ann/project/train.py", line 97 in <module>"""


def inspection(rank: int, late: bool) -> Inspection:
    """A rank that waits in all_reduce #1240, or has not come to it."""
    place = ("/home/ann/project/train.py", 41, "load")
    if not late:
        place = ("/venv/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py", 2810, "all_reduce")
    seq = 1239 if late else 1240
    records = tuple(
        CollectiveRecord("0", number, "all_reduce", ((1024,),), ("Float",), done=number < 1240)
        for number in range(1239, seq + 1)
    )
    group = GroupState("0", "default_pg", seq, 1239, (0, 1, 2, 3))
    return Inspection(rank, rank // 2, 100 + rank, STACK.format(*place), True, records, (group,))


def _hang() -> ReportData:
    ends = [end(rank, 90.5, signal=15, by_muster=True) for rank in range(4)]
    found = data(RunState.TIMED_OUT, 124, 90.6, ends)
    assert found.outcome is not None
    stopped = StopReason(StopKind.TIMEOUT, seconds=90.0)
    snapshot = Snapshot(90.1, SnapshotReason.STOP, 0, tuple(inspection(rank, rank == 3) for rank in range(4)))
    look = Look(snapshot, verdict(snapshot, world_size=4))
    return found._replace(outcome=found.outcome._replace(stopped=stopped), looks=(look, look))


def _signal() -> ReportData:
    killed = end(1, 4.0, signal=11)
    return data(
        RunState.FAILED,
        139,
        4.3,
        [
            end(0, 4.2, signal=15, by_muster=True),
            killed,
            *(end(rank, 4.2, signal=15, by_muster=True) for rank in (2, 3)),
        ],
        1,
    )


def _lost() -> ReportData:
    ends = [end(0, 75.2, signal=15, by_muster=True), end(1, 75.2, signal=15, by_muster=True)]
    found = data(RunState.ERROR, 125, 75.5, ends)
    assert found.outcome is not None
    why = "lost n2: unreachable for 45s"
    outcome = found.outcome._replace(
        stopped=StopReason(StopKind.NODE_LOST, node=1, message=why), lost=(LostNode(1, why),)
    )
    (only,) = found.attempts
    spans = (*only.ranks, RankSpan(2, 1, 1.3, 2.9), RankSpan(3, 1, 1.3, 3.0))
    return found._replace(outcome=outcome, attempts=(only._replace(ranks=spans),))


def _restart() -> ReportData:
    attempts = []
    for number, began in enumerate((1.2, 14.0, 31.0)):
        first = end(3, began + 9, 1)._replace(failure=failure(FailureKind.EXCEPTION, began + 8.9, TRACEBACK))
        others = [end(rank, began + 9.5, signal=15, by_muster=True) for rank in range(3)]
        attempts.append(attempt([*others, first], number, began, 3))
    found = data(RunState.FAILED, 1, 41.0, [span.end for span in attempts[-1].ranks if span.end], 3)
    assert found.outcome is not None
    return found._replace(
        attempts=tuple(attempts), outcome=found.outcome._replace(attempt=2), tracebacks=(RankText((3,), TRACEBACK),)
    )


def _running() -> ReportData:
    found = data(RunState.SUCCEEDED, 0, 3700.0, [end(rank, 1.0, 0) for rank in range(4)])
    spans = tuple(RankSpan(rank, rank // 2, 1.3, 2.8 + rank / 10) for rank in range(4))
    return found._replace(outcome=None, state="running", attempts=(Attempt(0, 1.2, None, spans),))


KINDS = {
    "success": data(RunState.SUCCEEDED, 0, 12.0, [end(rank, 11.5 + rank / 10, 0) for rank in range(4)]),
    "exception": _exception(),
    "hang": _hang(),
    "signal": _signal(),
    "lost host": _lost(),
    "restart": _restart(),
    "running": _running(),
}
"""A report of each kind."""


def many_ranks(count: int) -> ReportData:
    """The report of a run with many ranks, eight on each host, of which one raised and the others lost it."""
    lost = failure(FailureKind.PEER_LOST, 60.2, LOST)
    ends = [RankExit(rank, rank // 8, 60.5 + rank / 1000, 1, failure=lost) for rank in range(count)]
    ends[517] = ends[517]._replace(when=60.1, failure=failure(FailureKind.EXCEPTION, 60.0, TRACEBACK))
    found = data(RunState.FAILED, 1, 62.0, ends, 517)
    hosts = tuple(f"node{number:03d}" for number in range(count // 8))
    steps = found.startup[0].steps
    late = tuple(inspection(rank, rank == 517)._replace(node=rank // 8) for rank in range(count))
    moment = Snapshot(60.1, SnapshotReason.FAILURE, 0, late)
    others = tuple(rank for rank in range(count) if rank != 517)
    more_nodes = [NODE._replace(node=node, packages={}) for node in range(1, len(hosts))]
    memory = [((0.0, 1e9), (60.0, 1e9 + rank * 1e6)) for rank in range(count)]
    return found._replace(
        hosts=hosts,
        ranks=count,
        startup=tuple(NodeStart(node, steps) for node in range(len(hosts))),
        tracebacks=(RankText((517,), TRACEBACK), RankText(others, LOST)),
        looks=(Look(moment, verdict(moment, world_size=count)),),
        provenance=(NODE, *more_nodes),
        resources=tuple(Series(Resource.MEMORY, rank // 8, rank, points=points) for rank, points in enumerate(memory)),
    )


def write_run(folder: Path) -> Run:
    """Write a run of two ranks on one host that failed, was restarted and failed again."""
    run = Run(folder / "20261121-120000-aaaa0000aaaa-train")
    run.path.mkdir(mode=0o700)
    program = Program("script", ("train.py", "--lr", "0.1"))
    job = Job(program, "fork", "/venv/bin/python", "--python", "/home/ann", max_restarts=1)
    (node,) = layout([(Host("n1"), 2)])
    run.write("plan.json", as_json(Plan(job, (node,), ())))
    record = {
        "id": run.id,
        "name": "",
        "argv": ["muster", "run", "-g", "2", "train.py"],
        "cwd": "/home/ann",
        "ranks": 2,
    }
    run.write("job.json", {**record, "time": 1.0, "host": "n1", "job": as_json(job)})
    raised = failure(FailureKind.EXCEPTION, 8.5, "Traceback\nValueError: bad")
    events = [
        {"event": "hello", "t": 0.2, "node": 0, "executable": "/venv/bin/python"},
        {"event": "warm", "t": 1.4, "node": 0, "fork": True, "times": {"begun": 0.3, "python": 0.4, "imported": 1.3}},
        {"event": "provenance", "t": 0.5, **provenance_as_json(NODE)},
        {"event": "listening", "t": 1.5, "attempt": 0, "port": 1},
        {"event": "pids", "t": 2.0, "node": 0, "attempt": 0, "pids": {"0": 7, "1": 8}},
        {"event": "started", "t": 2.0, "node": 0, "attempt": 0},
        {"event": "output began", "t": 2.5, "rank": 0, "attempt": 0},
        {"event": "ended", "t": 3.0, "rank": 1, "attempt": 0, "code": 1, "failure": as_json(raised)},
        {"event": "do signal", "number": 15, "ranks": [0]},
        {"event": "ended", "t": 4.0, "rank": 0, "attempt": 0, "signal": 15},
        {
            "event": "do restarting",
            "first": {"rank": 1, "node": 0, "when": 3.0, "code": 1},
            "restart": 1,
            "restarts": 1,
        },
        {"event": "listening", "t": 5.0, "attempt": 1, "port": 2},
        {"event": "pids", "t": 5.5, "node": 0, "attempt": 1, "pids": {"0": 9, "1": 10}},
        {"event": "ended", "t": 8.6, "rank": 1, "attempt": 1, "code": 1, "failure": as_json(raised)},
        {"event": "ended", "t": 9.0, "rank": 0, "attempt": 1, "code": 1},
    ]
    (run.path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    first = RankExit(1, 0, 8.6, 1, failure=raised)
    outcome = RunResult(RunState.FAILED, 1, 9.2, 1, root_cause=first, exits=(RankExit(0, 0, 9.0, 1), first))
    run.write("outcome.json", outcome_as_json(outcome))
    for number in (0, 1):
        (run.path / f"attempt_{number}").mkdir(mode=0o700)
        for rank in (0, 1):
            for stream in ("out", "err"):
                run.log(number, rank, stream).write_text(
                    "Traceback\nValueError: bad\n" if (rank, stream) == (1, "err") else ""
                )
    return run
