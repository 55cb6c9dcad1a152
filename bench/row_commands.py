"""Rows: commands that start no rank, in a new Python each; lists of many runs; the fan-out to many hosts."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from functools import partial

from goals import Row, at_most, never_slower, ratio
from harness import BIN, PROGRAM, ROOT, Bench, Contender
from peers import need
from records import MUSTER

PLAN, PS = f"{MUSTER} plan", f"{MUSTER} ps"
KEPT = 10_000


def commands(bench: Bench) -> None:
    """Measure help, plan and ps, with bytecode and where none can be written."""
    script = bench.new("train.py")
    script.write_text("import torch\n")
    ours = {
        MUSTER: [PROGRAM, "--help"],
        PLAN: [PROGRAM, "plan", "-g", "8", str(script)],
        PS: [PROGRAM, "ps"],
    }
    theirs = {
        "torchrun --help": [str(BIN / "torchrun"), "--help"],
        "accelerate --help": [str(BIN / "accelerate"), "--help"],
        "import submitit": [sys.executable, "-c", "import submitit"],
        "python -c pass": [sys.executable, "-c", "pass"],
    }
    bare = bench.new("bare")
    shutil.copytree(ROOT / "src" / "muster", bare / "muster", ignore=shutil.ignore_patterns("__pycache__"))
    unwritten = {"PYTHONPATH": str(bare), "PYTHONDONTWRITEBYTECODE": "1"}

    def took(words: list[str], env: Mapping[str, str]) -> Mapping[str, float]:
        return {"time": bench.run(words, env).took}

    def contenders(chosen: Mapping[str, list[str]], env: Mapping[str, str]) -> dict[str, Contender]:
        return {name: partial(took, words, env) for name, words in chosen.items()}

    for words in ours.values():
        bench.run(words)  # the first run of a new version compiles it
    more = bench.size(2 * bench.repeat, 1)
    bench.turns("commands", contenders({**ours, **theirs}, {}), more)
    bench.turns("commands without bytecode", contenders(ours, unwritten), more)


def kept_runs(bench: Bench) -> None:
    """Measure ps, show and logs where many runs are kept: copies of one real run."""
    home = bench.new("kept")
    env = {"MUSTER_HOME": str(home)}
    script = bench.new("hello.py")
    script.write_text("print('hello')\n")
    bench.run([PROGRAM, "run", "-q", "-g", "2", str(script)], env)
    (run,) = (home / "runs").iterdir()
    rest = run.name.split("-", 2)[2]
    number = bench.size(KEPT, 20)
    for index in range(1, number):
        copy = run.with_name(f"20261001-{index // 3600:02d}{index // 60 % 60:02d}{index % 60:02d}-{rest}")
        shutil.copytree(run, copy, copy_function=os.link)
    one = f"20261001-{number // 2 // 3600:02d}{number // 2 // 60 % 60:02d}{number // 2 % 60:02d}-{rest}"
    words = {
        MUSTER: ["ps"],
        f"{MUSTER} ps -a": ["ps", "-a"],
        f"{MUSTER} show": ["show", one],
        f"{MUSTER} logs": ["logs", one],
    }

    def took(command: list[str]) -> Mapping[str, float]:
        done = bench.run([PROGRAM, *command], env)
        return {"time": done.took}

    bench.turns(f"{number:,} runs", {name: partial(took, command) for name, command in words.items()})
    shutil.rmtree(home)


def fan_out(bench: Bench) -> None:
    """Measure how long until `true` has run on many hosts."""
    lab = bench.lab(bench.size(64, 3))
    every = f"n[1-{len(lab.nodes)}]"
    words = {
        MUSTER: [PROGRAM, "run", "-H", every, "-g", "1", "-q", "--", "true"],
        "pdsh": [need("pdsh"), "-R", "ssh", "-f", "64", "-w", every, "true"],
        "clush": [need("clush"), "-f", "64", "-o", "-o LogLevel=ERROR", "-w", every, "true"],
    }

    def took(command: list[str]) -> Mapping[str, float]:
        return {"ended": bench.in_lab(lab, command).took}

    bench.turns(f"{len(lab.nodes)} hosts", {name: partial(took, command) for name, command in words.items()})


ROWS = (
    Row(
        "commands",
        "Commands that start nothing",
        "`muster --help`, `muster plan -g 8 train.py` and `muster ps`, each in a new process. Without bytecode: a "
        "copy of muster without `__pycache__`, where none may be written.",
        commands,
        (
            *(at_most("time", "commands", 0.08, program=program) for program in (MUSTER, PLAN, PS)),
            *(at_most("time", "commands without bytecode", 0.08, program=program) for program in (MUSTER, PLAN, PS)),
            *(
                ratio("time", "commands", other, 10)
                for other in ("torchrun --help", "accelerate --help", "import submitit")
            ),
        ),
        floor=(
            "What is above the start of Python is the import of muster's own modules. Where no bytecode can be "
            "written, compiling them takes as long again. With bytecode, a part is the creation of records: "
            "`NamedTuple` compiles each annotation of a class when the class is made."
        ),
    ),
    Row(
        "ps",
        "10,000 kept runs",
        "`muster ps`, and `show` and `logs` of one of them.",
        kept_runs,
        tuple(
            at_most("time", "10,000 runs", 0.2, program=name) for name in (MUSTER, f"{MUSTER} show", f"{MUSTER} logs")
        ),
    ),
    Row(
        "fan_out",
        "`true` on 64 hosts",
        "64 hosts of the practice cluster on this machine, all over ssh, at most 64 connections at a time.",
        fan_out,
        (never_slower("ended", "64 hosts", "the better of pdsh and clush", 1.1),),
        lab=True,
        floor=(
            "pdsh and clush start nothing on a host but the command; muster starts an agent, that is a Python, on each."
        ),
    ),
)
