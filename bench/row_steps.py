"""Row: the steps of a launch, each alone: what no launcher can avoid, and what muster itself takes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

from goals import Row, figure
from harness import HERE, PROGRAM, Bench, Missing
from peers import need

PYTHON, BARE = "start of Python", "start of Python without site and environment (`-I -S`)"
IMPORT, GROUP = "import torch", "init_process_group (gloo, one rank)"
REDUCE, EXIT = "first all-reduce (one rank)", "exit of a process that has used torch.distributed"
NOTHING = "muster run -- true"
NOTHING_FORKED = "muster run of an empty script"
LOGIN = "ssh to a host and back"
NOTHING_OVER_SSH = "muster run -H on three hosts -- true"
NOTHING_BY_SRUN, SRUN = "muster run --slurm on three hosts -- true", "srun on three hosts, true"


def steps(bench: Bench) -> None:
    """Measure each step in turn."""

    def took(words: Sequence[str]) -> Mapping[str, float]:
        return {"time": bench.run(words).took}

    empty = bench.new("empty.py")
    empty.write_text("pass\n")
    contenders = {
        BARE: lambda: took([sys.executable, "-I", "-S", "-c", "pass"]),
        PYTHON: lambda: took([sys.executable, "-c", "pass"]),
        NOTHING: lambda: took([PROGRAM, "run", "-q", "--", "true"]),
        NOTHING_FORKED: lambda: took([PROGRAM, "run", "-q", "-g", "1", str(empty)]),
    }
    bench.turns("step", contenders)
    for _ in range(bench.repeat):
        done = bench.run([sys.executable, str(HERE / "scripts" / "stages.py")])
        found = json.loads(done.out)
        for name, key in ((IMPORT, "import"), (GROUP, "group"), (REDUCE, "reduce")):
            bench.record("step", name, "time", found[key])
        bench.record("step", EXIT, "time", done.began + done.took - found["end"])
    try:
        over_network(bench)
    except Missing as error:
        bench.skip("step on hosts", NOTHING_OVER_SSH, str(error))


def over_network(bench: Bench) -> None:
    """Measure the steps on hosts."""
    lab = bench.lab(3)
    hosts = ",".join(lab.nodes)

    def took(words: Sequence[str]) -> Mapping[str, float]:
        return {"time": bench.in_lab(lab, words).took}

    contenders = {
        LOGIN: lambda: took(["ssh", lab.nodes[0], "true"]),
        NOTHING_OVER_SSH: lambda: took([PROGRAM, "run", "-q", "-H", hosts, "-g", "1", "--", "true"]),
        SRUN: lambda: took([need("srun"), "-N3", "true"]),
        NOTHING_BY_SRUN: lambda: took([PROGRAM, "run", "-q", "--slurm", "-N", "3", "-g", "1", "--", "true"]),
    }
    bench.turns("step on hosts", contenders)


ROWS = (
    Row(
        "steps",
        "Steps of a launch",
        "Each step by itself, on an otherwise idle machine.",
        steps,
        (
            figure("time", "step", IMPORT),
            figure("time", "step", NOTHING),
            figure("time", "step on hosts", NOTHING_OVER_SSH),
        ),
        lab=True,
    ),
)
