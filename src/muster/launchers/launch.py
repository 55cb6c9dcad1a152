"""The old `python -m torch.distributed.launch`: as torchrun, and each script is given `--local-rank=N`."""

from __future__ import annotations

from muster.launchers.foreign import each_node, equal_shares, shim
from muster.model import Job, Late, Node, Plan


def plan(job: Job, nodes: tuple[Node, ...], run_id: str) -> Plan:
    """One command a node. `--launcher-args --use-env` leaves the argument out."""
    each = equal_shares(job, nodes)
    words = {
        node.number: (
            *(Late.PYTHON, "-W", "ignore::FutureWarning", "-m", "torch.distributed.launch"),
            *(f"--nnodes={len(nodes)}", f"--node-rank={node.number}", f"--nproc-per-node={each}"),
            *("--master-addr=" + Late.MASTER_ADDR, "--master-port=" + Late.MASTER_PORT),
            *(*job.launcher_args, *shim(run_id)),
        )
        for node in nodes
    }
    return each_node(job, nodes, run_id, words)
