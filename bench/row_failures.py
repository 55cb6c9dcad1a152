"""Rows: restarts after a rank was killed, and the end after a rank has failed."""

from __future__ import annotations

from collections.abc import Mapping

from contenders import launched, start_of, times_of
from goals import Row, at_most, never_slower
from harness import Bench, Contender, Failed
from peers import HOSTS, LOCAL, Command, Peer, Start, muster, torchrun
from records import MUSTER

from muster.lab import Lab

DEATHS = (MUSTER, "torchrun", "accelerate", "deepspeed", "torchrunx", "mp.spawn", "mpirun (Open MPI)", "mpirun (MPICH)")
"""Launchers whose command ends when a rank has failed."""

DEATHS_ON_HOSTS = (MUSTER, "srun + torchrun", "srun", "mpirun (Open MPI)", "mpirun (MPICH)")


def with_restarts(peer: Peer, option: str) -> Peer:
    """Return the launcher with an option behind its name."""

    def command(start: Start) -> Command:
        found = peer(start)
        at = found.words.index(start.script[0])
        return found._replace(words=[*found.words[:at], option, *found.words[at:]])

    return command


def restarted(bench: Bench, ranks: int, peer: Peer, lab: Lab | None = None) -> Contender:
    """Return a contender: from the SIGKILL of rank 1 until all ranks of the next attempt have a sum."""

    def once() -> Mapping[str, float]:
        start = start_of(bench, ranks, lab.nodes if lab else (), "restart")
        done = launched(bench, start, with_restarts(peer, "--max-restarts=1"), lab)
        sums = done.times(times_of(start), "reduced", 2 * start.total)
        return {"restart": max(sums) - done.times(times_of(start), "killed", 1)[0]}

    return once


def died(bench: Bench, ranks: int, peer: Peer, lab: Lab | None = None) -> Contender:
    """Return a contender: from the exit of rank 1 until the command has ended, which must tell a failure."""

    def once() -> Mapping[str, float]:
        start = start_of(bench, ranks, lab.nodes if lab else (), "death")
        done = launched(bench, start, peer, lab, None)
        if done.status == 0:
            raise Failed("exit status 0 although a rank has failed")
        return {"death": done.took - done.times(times_of(start), "died", 1)[0]}

    return once


def restart(bench: Bench) -> None:
    """Measure restarts here and over ssh."""
    ranks = bench.size(8, 2)
    peers: Mapping[str, Peer] = {MUSTER: muster, "torchrun": torchrun}
    bench.turns(f"{ranks} ranks", {name: restarted(bench, ranks, peer) for name, peer in peers.items()})
    lab = bench.lab(3)
    each = bench.size(2, 1)
    bench.turns(f"3 × {each} over ssh", {MUSTER: restarted(bench, each, muster, lab)})


def death(bench: Bench) -> None:
    """Measure the end here and on hosts."""
    ranks = bench.size(8, 2)
    bench.turns(f"{ranks} ranks", {name: died(bench, ranks, LOCAL[name]) for name in DEATHS})
    lab = bench.lab(3)
    each = bench.size(2, 1)
    bench.turns(f"3 × {each}", {name: died(bench, each, HOSTS[name], lab) for name in DEATHS_ON_HOSTS})


ROWS = (
    Row(
        "restart",
        "Restart after SIGKILL",
        "From the moment at which rank 1 kills itself until all ranks of the next attempt have had an all-reduce. "
        "torch 2.13 keeps the store of torchrun for all attempts: ranks find addresses of the last attempt in it, and "
        "fail. So the script gives each attempt names of its own there.",
        restart,
        (at_most("restart", "8 ranks", 0.15), at_most("restart", "3 × 2 over ssh", 0.5)),
        lab=True,
        floor=(
            "Torch stays imported in the fork server; the rest is the end of the other ranks, forks and "
            "`init_process_group`."
        ),
    ),
    Row(
        "death",
        "A rank fails: until the command has ended",
        "From the exit of rank 1 with status 3, while all others would sleep for 20 s, until the command has ended "
        "with a status that tells it.",
        death,
        (at_most("death", "8 ranks", 0.2), never_slower("death", "8 ranks"), never_slower("death", "3 × 2")),
        lab=True,
        floor=(
            "Before muster ends the others, it asks them for at most 0.5 s where they are, for the report; "
            "mpirun and srun end them at once."
        ),
    ),
)
