"""One Slurm task per rank, started by one srun, whatever the job's options. Each rank sees all GPUs of its node."""

from __future__ import annotations

from muster.core.fold import by_value
from muster.core.hostlist import fold_hostlist
from muster.core.model import Job, Late, Node, Plan
from muster.errors import InvalidRequest
from muster.launchers._external import on_head_node, own_file, shim_argv
from muster.schedulers import slurm_env, slurm_step


def plan(job: Job, nodes: tuple[Node, ...], run_id: str) -> Plan:
    """Return a plan with one command, on node 0. A host file maps ranks to nodes."""
    by_count = by_value((node.host.name, len(node.host.gpus)) for node in nodes)
    if len(by_count) > 1:
        # Slurm 22.05 refuses one step over such nodes with `Insufficient GRES available in allocation`
        told = ", ".join(
            f"{count} on {fold_hostlist(names)}" for count, names in sorted(by_count.items(), reverse=True)
        )
        raise InvalidRequest(
            f"--launcher srun: the nodes of this job have different numbers of GPUs ({told}), and srun cannot start "
            "one job step on them",
            "use the default launcher, or request the same number with --gpus-per-node",
        )
    layout = "".join(f"{node.host.name}\n" for node in nodes for _ in node.ranks)
    ranks = sum(len(node.ranks) for node in nodes)
    options = slurm_step.tasks(job.allocation or Late.JOB_ID, len(nodes), ranks, job.launcher_args)
    hosts = own_file("hosts", layout)
    words = (*options, Late.PYTHON, *shim_argv(run_id))
    return on_head_node(
        job, nodes, run_id, words, [hosts], slurm_env.NOT_FOR_SLURM, {"SLURM_HOSTFILE": hosts.path}, tasks=True
    )
