"""The queue of the lab's Slurm."""

from __future__ import annotations

from lab_cluster import LabCluster


def nodes_are_free(there: LabCluster) -> bool:
    """Return whether all nodes are idle. Bring back those that Slurm has drained, as it does after a fault of its own
    (a slurmctld that was killed does not know the newest jobs)."""
    lines = there.lab.run("head", ["sinfo", "--noheader", "--partition=main", "-N", "--format=%N %T"]).stdout
    states = dict(line.split() for line in lines.splitlines())
    for node in (node for node, state in states.items() if state == "drained"):
        there.lab.run("head", ["scontrol", "update", f"NodeName={node}", "State=RESUME"])
    return bool(states) and set(states.values()) == {"idle"}


def queue(there: LabCluster) -> list[str]:
    """Return the states of the jobs."""
    states: list[str] = there.lab.run("head", ["squeue", "--noheader", "--format=%T"]).stdout.split()
    return states
