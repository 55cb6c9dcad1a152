"""Row: output of ranks, many short lines and one very long one: the time, the memory of the launcher, lost lines."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from goals import Row, at_most, never_slower
from harness import BIN, PROGRAM, Bench, Contender, Failed
from peers import PYTHON, need
from processes import Peaks
from records import MUSTER

LINES = """
import os, sys
names = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
rank = next(os.environ[name] for name in names if name in os.environ)
for number in range(int(sys.argv[1])):
    print(f"r{rank} {number:09d} the loss is what it was before")
"""
LINE = r"r[0-9]+ [0-9]{9} the loss is what it was before$"
LENGTH = 44

LONG = """
import sys
for _ in range(int(sys.argv[1])):
    sys.stdout.write("x" * 1000000)
print(" end")
"""


class Output:
    """Where a launcher is told to keep the output of ranks, and what it prints."""

    def __init__(self, bench: Bench) -> None:
        self.printed, self.kept = bench.new("printed"), bench.new("kept")


Start = Callable[[Output, int, list[str]], list[str]]


def muster(out: Output, ranks: int, script: list[str]) -> list[str]:
    """Keeps the output of each rank in a file, and prints it."""
    return [PROGRAM, "run", "-g", str(ranks), "--run-dir", str(out.kept), *script]


def muster_exec(out: Output, ranks: int, script: list[str]) -> list[str]:
    """The same without the import of torch, which the scripts of this row do not need."""
    return [*muster(out, ranks, []), "--launcher", "exec", *script]


def torchrun(out: Output, ranks: int, script: list[str]) -> list[str]:
    """Keeps the output in files, and prints it with `--tee 3`."""
    words = [
        str(BIN / "torchrun"),
        "--standalone",
        f"--nproc-per-node={ranks}",
        "--tee",
        "3",
        "--log-dir",
        str(out.kept),
    ]
    return [*words, *script]


def openmpi(out: Output, ranks: int, script: list[str]) -> list[str]:
    """Keeps the output in files, and prints it."""
    words = [need("mpirun.openmpi"), "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", str(ranks)]
    return [*words, "--output-filename", str(out.kept), PYTHON, *script]


def srun(out: Output, ranks: int, script: list[str]) -> list[str]:
    """Prints the output with labels."""
    return ["srun", "-N1", f"-n{ranks}", "--overcommit", "--label", PYTHON, *script]


def printed(
    bench: Bench, ranks: int, size: int, script: Path, start: Start, torn: Callable[[Output], float]
) -> Contender:
    """Return a contender that prints to a file on disk, where the lines are counted."""

    def once() -> Mapping[str, float]:
        out = Output(bench)
        words = start(out, ranks, [str(script), str(size)])
        lab = bench.lab(3) if start is srun else None
        env = bench.lab_env(lab) if lab is not None else {}
        with out.printed.open("wb") as file:
            peaks = Peaks(os.getpid(), str(script))
            try:
                done = bench.run(words if lab is None else lab.command("head", words, "/"), env, out=file)
            finally:
                memory = peaks.stop()
        lost = torn(out)
        for path in (out.printed, out.kept):
            subprocess.run(["rm", "-rf", str(path)], check=True)
        return {"ended": done.took, "memory": memory, "lines": lost}

    return once


def count(pattern: str, *paths: str) -> int:
    """Return the number of lines that fit."""
    words = ["grep", "-rhaE", "-c", pattern, *paths]
    found = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    if found.returncode > 1:
        raise Failed(found.stderr)
    return sum(int(line) for line in found.stdout.split())


def logs(bench: Bench) -> None:
    """Measure both kinds of output."""
    ranks, each = bench.size(8, 2), bench.size(100, 1)
    lines = bench.new("lines.py")
    lines.write_text(LINES)
    number = each * 1_000_000 // LENGTH

    def torn(out: Output) -> float:
        return ranks * number - count(LINE, str(out.printed))

    starts: Mapping[str, Start] = {
        MUSTER: muster,
        f"{MUSTER} --launcher exec": muster_exec,
        "torchrun --tee 3": torchrun,
        "mpirun --output-filename": openmpi,
        "srun --label": srun,
    }
    size = f"{ranks} × {each} MB of short lines"
    bench.turns(size, {name: printed(bench, ranks, number, lines, start, torn) for name, start in starts.items()})
    long = bench.new("long.py")
    long.write_text(LONG)
    megabytes = bench.size(1000, 1)

    def cut(out: Output) -> float:
        return 1 - count("x end$", str(out.printed))

    name = f"one line of {megabytes} MB"
    bench.turns(
        name, {name: printed(bench, 1, megabytes, long, start, cut) for name, start in starts.items()}, repeat=1
    )


def followed(bench: Bench) -> None:
    """Measure the CPU time of a run with many ranks, with somebody who follows one of them and without."""
    ranks, seconds = bench.size(256, 4), bench.size(10, 1)
    script = bench.new("slow.py")
    script.write_text(f"import time\nfor n in range({seconds * 5}):\n    print(n, flush=True)\n    time.sleep(0.2)\n")

    def once(follow: bool) -> Mapping[str, float]:
        from harness import cpu_of_children

        home = bench.new("home")
        env = {"MUSTER_HOME": str(home)}
        before = cpu_of_children()
        client = None
        if follow:
            waits = f"until ls {home}/runs/*/attempt_0/rank_*.out >/dev/null 2>&1; do sleep 0.1; done"
            words = ["sh", "-c", f"{waits}; exec {PROGRAM} logs -f --rank 0 last >/dev/null"]
            client = subprocess.Popen(words, env={**bench.env, **env}, start_new_session=True)
        try:
            bench.run([PROGRAM, "run", "-q", "-g", str(ranks), str(script)], env)
        finally:
            if client is not None:
                client.wait(60)
        return {"cpu_all": cpu_of_children() - before}

    contenders = {MUSTER: partial(once, False), f"{MUSTER}, rank 0 is followed": partial(once, True)}
    bench.turns(f"{ranks} ranks", contenders)


ROWS = (
    Row(
        "logs",
        "Output of ranks",
        "8 ranks that print short lines as fast as they can, and one rank that prints a single long line, until all "
        "has ended. Output goes to a file, and muster, torchrun and mpirun keep one file for each rank besides. "
        "Memory is the largest resident set size of a process of the launcher, ranks excepted.",
        logs,
        (
            never_slower("ended", "8 × 100 MB of short lines"),
            at_most("memory", "8 × 100 MB of short lines", 100),
            at_most("lines", "8 × 100 MB of short lines", 0),
            never_slower("ended", "one line of 1000 MB"),
            at_most("memory", "one line of 1000 MB", 100),
            at_most("lines", "one line of 1000 MB", 0),
        ),
        lab=True,
    ),
    Row(
        "followed",
        "Following one of 256 ranks",
        "CPU time of a whole run whose ranks print 5 lines a second, with `muster logs -f --rank 0` beside it and "
        "without. The difference is what the command itself takes.",
        followed,
    ),
)
