"""Rows: a controller with thousands of simulated agents, and the plan of a large run."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import partial

from goals import Row, at_most, growth
from harness import HERE, PROGRAM, Bench
from records import MUSTER

FAILURE = "one fails"
OTHERS = (
    "all end well",
    "all fail",
    "Ctrl-C",
    "a time limit",
    "all hosts are lost",
    "full disks",
    "torchrun fails",
)
"""Ways of `simulated.WAYS` beside the one with a goal."""

LARGE = "10,000 nodes × 8"


def case_of(nodes: int) -> str:
    """Return the name of a case."""
    return f"{nodes:,} nodes × 8"


def controller(bench: Bench) -> None:
    """Measure the end of runs."""

    def once(nodes: int, way: str) -> Mapping[str, float]:
        said = bench.run([sys.executable, str(HERE / "simulated.py"), str(nodes), way]).out
        return dict(json.loads(said))

    ways = {MUSTER: FAILURE, **{f"{MUSTER}: {way}": way for way in OTHERS}}
    for nodes in bench.sizes((128, 1000, 4000), (4,)):
        bench.turns(case_of(nodes), {name: partial(once, nodes, way) for name, way in ways.items()}, repeat=1)


def plan(bench: Bench) -> None:
    """Measure `muster plan` for many nodes."""
    nodes = bench.size(10_000, 10)
    script = bench.new("train.py")
    script.write_text("import torch\n")
    words = [PROGRAM, "plan", "-H", f"n[1-{nodes}]", "-g", "8", str(script)]
    bench.turns(case_of(nodes), {MUSTER: lambda: {"time": bench.run(words).took}})


ROWS = (
    Row(
        "controller",
        "A controller with thousands of agents",
        "Simulated agents, 8 ranks each: CPU time from the first exit of a rank to the report, peak of the memory of "
        "all Python objects, lines of the report. In the first line one rank fails and the others are terminated.",
        controller,
        (
            growth("cpu", case_of(1000), case_of(4000), 6, "linear, that is 4 × and some noise"),
            growth("memory", case_of(1000), case_of(4000), 6, "linear"),
            at_most("report", case_of(4000), 25),
        ),
    ),
    Row(
        "plan",
        "The plan of 80,000 ranks",
        "`muster plan -H n[1-10000] -g 8 train.py`.",
        plan,
        (at_most("time", LARGE, 1),),
    ),
)
