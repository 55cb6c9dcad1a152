"""Row: a run on a session (`muster hold`), beside one without it, and a function that is called again and again."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence

from contenders import start_of, times_of
from goals import Row, at_most, figure
from harness import FIRST_SUM, PROGRAM, Bench, Contender, Done, cpu_of_children
from records import MUSTER

from muster.lab import Lab

CALLS = """
import sys, time
import muster

def empty():
    return None

with muster.hold(nproc_per_node=int(sys.argv[1])) as cluster:
    for _ in range(int(sys.argv[2]) + 1):
        began = time.monotonic()
        cluster.run(empty, show_output=False)
        print(time.monotonic() - began)
"""

COLD = "muster without a session"


def on_session(bench: Bench, case: str, where: Sequence[str], ranks: int, total: int, lab: Lab | None = None) -> None:
    """Measure runs on a session and others in turn."""

    def run(*words: str) -> Done:
        command = [PROGRAM, *words]
        return bench.run(command) if lab is None else bench.in_lab(lab, command)

    def contender(*words: str) -> Contender:
        def once() -> Mapping[str, float]:
            start = start_of(bench, ranks)
            before = cpu_of_children()
            done = run("run", *words, FIRST_SUM, *start.script[1:])
            sums = done.times(times_of(start), "reduced", total)
            return {"first": max(sums), "ended": done.took, "cpu": cpu_of_children() - before}

        return once

    size = ["-g", str(ranks)]
    run("hold", *where, *size, "--name", "bench")
    try:
        contender("--on", "bench")()  # the second run is measured
        bench.turns(case, {MUSTER: contender("--on", "bench"), COLD: contender(*where, *size)})
    finally:
        run("release", "--force", "bench")


def held(bench: Bench) -> None:
    """Measure here, over ssh, and calls of a function."""
    ranks, each = bench.size(8, 2), bench.size(2, 1)
    on_session(bench, f"{ranks} ranks", [], ranks, ranks)

    def calls() -> Mapping[str, float]:
        words = [sys.executable, "-c", CALLS, str(ranks), str(bench.size(5, 1))]
        return {"time": statistics.median([float(line) for line in bench.run(words).out.split()][1:])}

    bench.turns(f"an empty function on {ranks} ranks", {MUSTER: calls}, repeat=1)
    lab = bench.lab(3)
    on_session(bench, f"3 × {each} over ssh", ["-H", ",".join(lab.nodes)], each, 3 * each, lab)


ROWS = (
    Row(
        "held",
        "A run on a session",
        "`muster run --on NAME`, from the second run on, beside a run without a session. CPU time is that of the "
        "command and its children, without the session. The call is the median of several in one program, without the "
        "first.",
        held,
        (
            at_most("first", "8 ranks", 0.35),
            at_most("first", "3 × 2 over ssh", 0.6),
            figure("time", "an empty function on 8 ranks"),
        ),
        lab=True,
    ),
)
