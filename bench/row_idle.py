"""Rows: memory of idle ranks, the CPU time of watching them, and the cost of the server that answers questions."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from functools import partial

from goals import Row, at_most, ratio
from harness import BIN, PROGRAM, Bench, Failed
from processes import Idle, children, cpu, family, pss
from records import MUSTER

IDLE = """
import os, sys, time
import torch, torch.distributed
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.write(descriptor, b"idle\\n")
time.sleep(600)
"""

REDUCE = """
import sys, time, torch, torch.distributed as dist
if "without" in sys.argv:
    import torch.distributed.c10d_logger as logger
    from torch.monitor import _WaitCounter
    logger._WaitCounter = _WaitCounter
dist.init_process_group("gloo")
x = torch.ones(1024)
for _ in range(200):
    dist.all_reduce(x)
dist.barrier()
began, used = time.perf_counter(), time.process_time()
for _ in range(int(sys.argv[1])):
    dist.all_reduce(x)
    x.div_(2)
if dist.get_rank() == 0:
    print("seconds", time.perf_counter() - began, time.process_time() - used)
dist.destroy_process_group()
"""

LAUNCHERS = {
    MUSTER: [PROGRAM, "run", "-q", "-g"],
    f"{MUSTER} --launcher exec": [PROGRAM, "run", "-q", "--launcher", "exec", "-g"],
    "torchrun": [str(BIN / "torchrun"), "--standalone", "--nproc-per-node"],
}


def idle(bench: Bench) -> None:
    """Measure memory with all launchers, and the CPU time with muster and torchrun."""
    script = bench.new("idle.py")
    script.write_text(IDLE)

    def waiting(name: str, ranks: int) -> Idle:
        there = bench.new("there")
        return Idle(bench, [*LAUNCHERS[name], str(ranks), str(script), str(there)], ranks, there)

    def memory(name: str, ranks: int) -> Mapping[str, float]:
        with waiting(name, ranks) as pid:
            return {"memory": sum(map(pss, family(pid)))}

    def watching(name: str, ranks: int) -> Mapping[str, float]:
        with waiting(name, ranks) as pid:
            # torchrun's agent is the command itself; muster has the command and, below it, the guard and the agent
            ours = (
                [pid]
                if name == "torchrun"
                else [pid, *children(pid), *(c for p in children(pid) for c in children(p))][:3]
            )
            before, began = sum(map(cpu, ours)), time.monotonic()
            time.sleep(bench.size(60, 1))
            return {"share": 100 * (sum(map(cpu, ours)) - before) / (time.monotonic() - began)}

    ranks = bench.size(32, 2)
    bench.turns(f"{ranks} ranks", {name: partial(memory, name, ranks) for name in LAUNCHERS}, repeat=1)
    ranks = bench.size(128, 2)
    bench.turns(
        f"{ranks} ranks, watched", {name: partial(watching, name, ranks) for name in LAUNCHERS if "exec" not in name}, 1
    )


def inspection(bench: Bench) -> None:
    """Measure all-reduces with and without the server in each rank that answers `muster why` and `stacks`."""
    script = bench.new("reduce.py")
    script.write_text(REDUCE)

    def once(*words: str) -> Mapping[str, float]:
        count = str(bench.size(4000, 40))
        done = bench.run([PROGRAM, "run", "-g", "2", str(script), count, *words])
        found = re.search(r"seconds ([\d.e-]+) ([\d.e-]+)", done.out)
        if found is None:
            raise Failed("rank 0 printed no time")
        return {"time": float(found[1]), "cpu": float(found[2])}

    bench.turns("2 ranks", {MUSTER: once, f"{MUSTER} without the server": partial(once, "without")})


ROWS = (
    Row(
        "idle",
        "Idle ranks",
        "Memory (PSS: a page that n processes share counts as 1/n in each) of ranks that have imported torch and "
        "wait, with all processes of the launcher. CPU time of the launcher's own processes while it watches 128 ranks "
        "for a minute.",
        idle,
        (ratio("memory", "32 ranks", "torchrun", 10), at_most("share", "128 ranks, watched", 0.2)),
        floor="Each rank has pages of its own: what Python touches to count references, and buffers of torch.",
    ),
    Row(
        "inspection",
        "The server in each rank that answers `muster why`",
        "4,000 all-reduces of 4 KB on 2 ranks with that server, as always, and with none.",
        inspection,
    ),
)
