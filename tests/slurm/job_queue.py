"""The queue of the lab's Slurm."""

from __future__ import annotations

from lab_cluster import LabCluster


def queue(there: LabCluster) -> list[str]:
    """Return the states of the jobs."""
    states: list[str] = there.lab.run("head", ["squeue", "--noheader", "--format=%T"]).stdout.split()
    return states
