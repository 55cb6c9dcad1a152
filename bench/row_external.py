"""Rows: what muster adds to an external launcher, and every launcher of muster at every place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from contenders import first_sum, launched, start_of
from goals import Row, at_most
from harness import PROGRAM, Bench, Contender, Failed
from peers import HOSTS, LOCAL, Command, Peer, Start
from records import MUSTER

from muster.lab import Lab
from muster.launchers import LAUNCHERS

HERE = {
    "torchrun": "torchrun",
    "accelerate": "accelerate",
    "deepspeed": "deepspeed",
    "spawn": "mp.spawn",
    "mpirun": "mpirun (Open MPI)",
    "submitit": "submitit",
    "ray": "Ray Train",
}
"""Launchers of muster, and the peers that they call."""

WHERE: Mapping[str, Sequence[str]] = {
    "this machine": (),
    "ssh": ("--hosts", "n1,n2"),
    "Slurm": ("--slurm", "--nnodes", "2"),
}
PLACES = {"this machine": "local", "ssh": "ssh", "Slurm": "slurm"}


def through_muster(launcher: str, *where: str) -> Peer:
    """Return `muster run --launcher NAME`."""

    def command(start: Start) -> Command:
        return Command([PROGRAM, "run", "--launcher", launcher, *where, "-g", str(start.ranks), *start.script])

    return command


def difference(bench: Bench, ranks: int, ours: Peer, theirs: Peer, lab: Lab | None = None) -> Contender:
    """Return a contender: how much longer muster with a launcher takes than the launcher alone, in turn."""

    def once() -> Mapping[str, float]:
        took = [first_sum(bench, ranks, peer, lab)() for peer in (theirs, ours)]
        return {"more": took[1]["ended"] - took[0]["ended"], "ended": took[1]["ended"]}

    return once


def external(bench: Bench) -> None:
    """Measure each launcher here, and srun on three hosts."""
    ranks = bench.size(2, 1)
    names = bench.sizes(range(len(HERE)), (0, 4))
    chosen = [(ours, theirs) for number, (ours, theirs) in enumerate(HERE.items()) if number in names]
    for ours, theirs in chosen:
        if bench.only and theirs not in bench.only:
            continue
        contender = difference(bench, ranks, through_muster(ours), LOCAL[theirs])
        bench.turns(f"{theirs}, {ranks} ranks", {MUSTER: contender})
    lab = bench.lab(3)
    each = bench.size(2, 1)
    for ours, theirs in (("srun", "srun"), ("torchrun", "srun + torchrun")):
        peer = through_muster(ours, "--slurm", "--nnodes", "3")
        bench.turns(f"{theirs}, 3 × {each}", {MUSTER: difference(bench, each, peer, HOSTS[theirs], lab)})


def places(bench: Bench) -> None:
    """Run every launcher of muster at every place, once; it must work, or be refused where the table says so."""
    lab = bench.lab(3)
    for launcher, row in LAUNCHERS.items():
        if bench.small and launcher not in ("fork", "srun"):
            continue
        for place, where in WHERE.items():
            possible = PLACES[place] in row.places
            contender = cell(
                bench, lab, through_muster(launcher, *where), 1 if place == "this machine" else 2, possible
            )
            if possible:
                bench.turns(launcher, {f"{MUSTER}, {place}": contender}, repeat=1)
            else:
                contender()
                bench.skip(launcher, f"{MUSTER}, {place}", "refused")


def cell(bench: Bench, lab: Lab, peer: Peer, nodes: int, possible: bool) -> Callable[[], Mapping[str, float]]:
    """Return a contender with 2 ranks on each node. Raises `Failed` if what is not possible is not refused."""

    def once() -> Mapping[str, float]:
        start = start_of(bench, 2, lab.nodes[:nodes] if nodes > 1 else ())
        done = launched(bench, start, peer, lab, 0 if possible else None)
        if not possible and (done.status != 2 or "is not available here" not in done.err):
            raise Failed(f"not refused: exit status {done.status}")
        return {"ended": done.took}

    return once


ROWS = (
    Row(
        "external",
        "External launchers through muster",
        "`muster run --launcher NAME` until all has ended, less the time of the launcher alone for the same script, "
        "one after the other.",
        external,
        (
            at_most("more", "srun, 3 × 2", 0.5),
            *(at_most("more", f"{theirs}, 2 ranks", 0.5) for theirs in HERE.values()),
            at_most("more", "srun + torchrun, 3 × 2", 0.5),
        ),
        lab=True,
        floor="The difference is the work of an agent on each node, the record of the run, and a shim for each rank.",
    ),
    Row(
        "places",
        "Every launcher at every place",
        "2 ranks on this machine or on each of 2 nodes, until all has ended.",
        places,
        lab=True,
    ),
)
