"""Spare nodes of a job of Slurm, which survives the loss of a node (`--no-kill`)."""

from __future__ import annotations

import json

import pytest
from lab_cluster import WHERE, LabCluster, where
from waiting import until

TWO = ("run", "--slurm", "-N", "2", "--spare-nodes", "1", "-g", "2", "--lease", "3s", "--grace", "1")


def test_without_a_failure_a_spare_node_does_nothing(there: LabCluster) -> None:
    done = there.muster(*TWO, there.script(WHERE))
    assert 0 == done.returncode, done.stderr
    assert ["n1 0 0 0 4 2 2 0", "n1 1 1 0 4 2 2 0", "n2 2 0 1 4 2 2 0", "n2 3 1 1 4 2 2 0"] == where(there, 4)
    batch = (there.run / "batch.sh").read_text()
    assert "#SBATCH --nodes=3\n" in batch and "#SBATCH --no-kill\n" in batch, batch
    there.nothing_left()


def test_a_node_that_fails_its_check_is_left_out(there: LabCluster) -> None:
    """The working directory exists only on some nodes."""
    with there.folder_on("head", "n1", "n3") as folder:
        done = there.muster(*TWO, "--cwd", folder, there.script(WHERE))
    assert 0 == done.returncode, done.stderr
    assert "warning: n2 left out: the working directory does not exist there; n3 takes its place" in done.stderr
    assert ["n1 0 0 0 4 2 2 0", "n1 1 1 0 4 2 2 0", "n3 2 0 1 4 2 2 0", "n3 3 1 1 4 2 2 0"] == where(there, 4)
    there.nothing_left()


@pytest.mark.slow
def test_a_spare_node_takes_the_place_of_one_that_crashes(there: LabCluster) -> None:
    process = there.start(*TWO, "--prefix", "{host} {rank}: ", there.script(WHERE), "on")
    until(lambda: "n2 3: n2" in there.said(), "the ranks run")
    there.lab.fault("crash", "n2")
    assert 0 == process.wait(timeout=120), there.said()
    said = there.said()
    assert "n3 takes the place of n2; restarting all ranks" in said
    assert ["n1 0 0 0 4 2 2 1", "n1 1 1 0 4 2 2 1", "n3 2 0 1 4 2 2 1", "n3 3 1 1 4 2 2 1"] == where(there, 4, 1)
    outcome = json.loads((there.run / "outcome.json").read_text())
    assert [(1, "n2", "n3", 1)] == [
        (one["node"], one["host"], one["by"], one["attempt"]) for one in outcome["replaced"]
    ]
    there.lab.clear()
    there.nothing_left()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--slurm", "-g", "1"), "error: --spare-nodes requires the number of nodes\nhint: add -N NODES"),
        (("--slurm", "-N", "2", "-n", "4"), "error: --spare-nodes cannot be combined with -n: "),
        (("--slurm", "-N", "2", "--gpus", "4"), "error: --spare-nodes cannot be combined with --gpus: "),
        (
            ("--slurm", "-N", "2", "-g", "1", "--launcher", "srun"),
            "--spare-nodes cannot be combined with --launcher srun",
        ),
    ],
)
def test_what_spare_nodes_cannot_be_combined_with(there: LabCluster, words: tuple[str, ...], says: str) -> None:
    done = there.muster("run", *words, "--spare-nodes", "1", "--", "true")
    assert 2 == done.returncode and says in done.stderr, done.stderr


def test_inside_an_allocation_spare_nodes_are_refused(there: LabCluster) -> None:
    line = there.argv("run", "--slurm", "-N", "1", "--spare-nodes", "1", "-g", "1", "--", "true")
    done = there.lab.run(
        "head", ["salloc", "-Q", "-N2", *line], env={**there.lab.environment(), **there.env}, timeout=240
    )
    assert 2 == done.returncode and "--spare-nodes: not available inside job " in done.stderr, done.stderr
