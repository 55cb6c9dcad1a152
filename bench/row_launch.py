"""Rows: from the command to the first all-reduce of all ranks and to the end, here and on hosts of the lab."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial

from contenders import IMPORT, first_sum, one_import
from goals import Row, figure, never_slower, ratio, relative
from harness import Bench, Contender
from peers import HOSTS, LOCAL, muster, need, torchrun
from records import MUSTER

THREE = "three imports of torch at once"


def local(bench: Bench) -> None:
    """Measure on this machine."""
    for ranks in bench.sizes((1, 8, 32), (2,)):
        others: dict[str, Contender] = {name: first_sum(bench, ranks, peer) for name, peer in LOCAL.items()}
        contenders: dict[str, Contender] = {MUSTER: others.pop(MUSTER), IMPORT: partial(one_import, bench), **others}
        bench.turns(f"{ranks} rank{'s' * (ranks > 1)}", contenders)


def imports_at_once(bench: Bench) -> Mapping[str, float]:
    """Return the time of three plain imports at once, which hosts of a lab need that share this machine."""
    words = [sys.executable, "-c", "import torch"]
    began = time.monotonic()
    for process in [subprocess.Popen(words, env=bench.env) for _ in range(3)]:
        process.wait()
    took = time.monotonic() - began
    return {"first": took, "ended": took}


def hosts(bench: Bench) -> None:
    """Measure on three hosts."""
    lab = bench.lab(3)
    for ranks in bench.sizes((2, 8), (1,)):
        others: dict[str, Contender] = {name: first_sum(bench, ranks, peer, lab) for name, peer in HOSTS.items()}
        contenders: dict[str, Contender] = {
            MUSTER: others.pop(MUSTER),
            THREE: partial(imports_at_once, bench),
            **others,
        }
        bench.turns(f"3 × {ranks}", contenders)


def many(bench: Bench) -> None:
    """Measure many ranks on this machine: a script without torch, and the first all-reduce."""
    count = bench.size(256, 4)
    script = bench.new("tiny.py")
    script.write_text("pass\n")

    def tiny(program: str) -> Contender:
        words = {
            MUSTER: [need("muster"), "run", "-q", "-g", str(count), str(script)],
            f"{MUSTER} --launcher exec": [
                need("muster"),
                "run",
                "-q",
                "--launcher=exec",
                "-g",
                str(count),
                str(script),
            ],
            "torchrun": [need("torchrun"), "--standalone", "--nproc-per-node", str(count), str(script)],
        }[program]
        return lambda: {"ended": bench.run(words).took}

    names = (MUSTER, f"{MUSTER} --launcher exec", "torchrun")
    bench.turns(f"{count} ranks of an empty script", {name: tiny(name) for name in names})
    peers = {MUSTER: muster, "torchrun": torchrun}
    bench.turns(f"{count} ranks, all-reduce", {name: first_sum(bench, count, peer) for name, peer in peers.items()})


ROWS = (
    Row(
        "launch",
        "Launch on one machine",
        "From the command to the first all-reduce (gloo) of the last rank, and until the command has ended and all "
        "ranks with it. Beside it one plain `import torch`.",
        local,
        (
            relative("first", "1 rank", IMPORT, 0.9),
            relative("first", "8 ranks", IMPORT, 0.9),
            relative("first", "32 ranks", IMPORT, 1.05),
            ratio("ended", "8 ranks", "torchrun", 4),
            ratio("ended", "32 ranks", "torchrun", 7),
        ),
    ),
    Row(
        "hosts",
        "Launch on three hosts",
        "The same on three hosts of the [practice cluster](lab.md), whose processes share the cores of this machine: "
        "muster, Open MPI, MPICH and torchrunx over ssh, the others by Slurm. Beside it three plain imports of torch "
        "at once, which three hosts need.",
        hosts,
        (
            relative("first", "3 × 2", THREE, 1.2),
            relative("first", "3 × 8", THREE, 1.2),
            ratio("first", "3 × 2", "srun + torchrun", 3.3),
            ratio("first", "3 × 8", "srun + torchrun", 8),
            never_slower("first", "3 × 2", but=THREE),
            never_slower("first", "3 × 8", but=THREE),
        ),
        lab=True,
        floor="Logins, agents and the controller share the cores with the imports.",
    ),
    Row(
        "many",
        "256 ranks on one machine",
        "256 ranks for real: a script that does nothing, and the first all-reduce.",
        many,
        (figure("first", "256 ranks, all-reduce"), figure("ended", "256 ranks of an empty script")),
    ),
)
