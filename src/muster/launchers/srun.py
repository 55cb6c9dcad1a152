"""One Slurm task a rank, by one srun, whatever the job was made with. Each rank sees all GPUs of its node."""

from __future__ import annotations

from muster.launchers.foreign import FOLDER, PYTHON, at_head, shim
from muster.model import Job, Node, Plan
from muster.schedulers import slurm


def plan(job: Job, nodes: tuple[Node, ...], run_id: str) -> Plan:
    """One command, on node 0. A file says which rank goes to which node."""
    layout = "".join(f"{node.host.name}\n" for node in nodes for _ in node.ranks)
    ranks = sum(len(node.ranks) for node in nodes)
    words = slurm.tasks(job.allocation, len(nodes), ranks, (*job.launcher_args, PYTHON, *shim(run_id, nodes)))
    env = {"SLURM_HOSTFILE": f"{FOLDER}/hosts"}
    return at_head(job, nodes, run_id, words, {"hosts": layout}, slurm.MISLEADING, env)
