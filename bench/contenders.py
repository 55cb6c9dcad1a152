"""Contenders of several rows: a launcher with the ranks of first_sum.py, here or on the hosts of a lab."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from harness import FIRST_SUM, Bench, Contender, Done
from peers import Peer, Start

from muster.lab import Lab

IMPORT = "python -c 'import torch'"
"""One plain import: no launch is faster that does not fork from a process that has torch already."""


def start_of(bench: Bench, ranks: int, hosts: tuple[str, ...] = (), what: str = "", script: str = FIRST_SUM) -> Start:
    """Return the start of a script that writes times to a new file, its first argument."""
    folder = bench.new("launcher")
    folder.mkdir()
    return Start(ranks, [script, str(bench.new("times")), *([what] if what else [])], folder, hosts)


def times_of(start: Start) -> Path:
    """Return the file to which the ranks write times."""
    return Path(start.script[1])


def launched(bench: Bench, start: Start, peer: Peer, lab: Lab | None = None, expected: int | None = 0) -> Done:
    """Run the launcher to its end."""
    command = peer(start)
    if lab is None:
        return bench.run(command.words, command.env, expected)
    return bench.in_lab(lab, command.words, command.env, expected)


def first_sum(bench: Bench, ranks: int, peer: Peer, lab: Lab | None = None, script: str = FIRST_SUM) -> Contender:
    """Return a contender: when the last rank had its sum, and when the command had ended."""

    def once() -> Mapping[str, float]:
        start = start_of(bench, ranks, lab.nodes if lab else (), script=script)
        done = launched(bench, start, peer, lab)
        return {"first": max(done.times(times_of(start), "reduced", start.total)), "ended": done.took}

    return once


def one_import(bench: Bench) -> Mapping[str, float]:
    """Return the time of a plain Python that imports torch, counted as a launch."""
    took = bench.run([sys.executable, "-c", "import torch"]).took
    return {"first": took, "ended": took}
