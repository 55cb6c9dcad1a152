"""The deprecated `python -m torch.distributed.launch`: like torchrun, but passes `--local-rank=N` to each script."""

from __future__ import annotations

from muster.core.model import Job, Late, Node, Plan
from muster.launchers._external import per_node, require_uniform, shim_argv


def plan(job: Job, nodes: tuple[Node, ...], run_id: str) -> Plan:
    """Return a plan with one command per node. `--launcher-args --use-env` leaves the argument out."""
    each = require_uniform(job, nodes)
    words = {
        node.number: (
            *(Late.PYTHON, "-W", "ignore::FutureWarning", "-m", "torch.distributed.launch"),
            *(f"--nnodes={len(nodes)}", f"--node-rank={node.number}", f"--nproc-per-node={each}"),
            *("--master-addr=" + Late.MASTER_ADDR, "--master-port=" + Late.MASTER_PORT),
            *(*job.launcher_args, *shim_argv(run_id)),
        )
        for node in nodes
    }
    return per_node(job, nodes, run_id, words)
