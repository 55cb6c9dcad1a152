"""One Slurm task a rank, by one srun, whatever the job was made with. Each rank sees all GPUs of its node."""

from __future__ import annotations

from muster.errors import Impossible
from muster.fold import by_value
from muster.hosts import fold_hosts
from muster.launchers.foreign import at_head, own_file, shim
from muster.model import Job, Late, Node, Plan
from muster.schedulers import slurm


def plan(job: Job, nodes: tuple[Node, ...], run_id: str) -> Plan:
    """One command, on node 0. A file says which rank goes to which node."""
    by_count = by_value((node.host.name, len(node.host.gpus)) for node in nodes)
    if len(by_count) > 1:
        # Slurm 22.05: one step over such nodes is refused, `Insufficient GRES available in allocation`
        told = ", ".join(f"{count} on {fold_hosts(names)}" for count, names in sorted(by_count.items(), reverse=True))
        raise Impossible(
            f"--launcher srun: the nodes of this job have different numbers of GPUs ({told}), and srun cannot start "
            "one job step on them",
            "use the default launcher, or ask for equally many with --gpus-per-node",
        )
    layout = "".join(f"{node.host.name}\n" for node in nodes for _ in node.ranks)
    ranks = sum(len(node.ranks) for node in nodes)
    options = slurm.tasks(job.allocation or Late.JOB_ID, len(nodes), ranks, job.launcher_args)
    hosts = own_file("hosts", layout)
    words = (*options, Late.PYTHON, *shim(run_id))
    return at_head(job, nodes, run_id, words, [hosts], slurm.NOT_FOR_SLURM, {"SLURM_HOSTFILE": hosts.path}, tasks=True)
