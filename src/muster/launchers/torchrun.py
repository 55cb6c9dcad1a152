"""One torchrun per node, with the static rendezvous, which keeps the node order.

`--launcher-args '--rdzv-backend c10d'` selects another one.
"""

from __future__ import annotations

from muster.core.model import Job, Late, Node, Plan, Text
from muster.launchers._external import per_node, require_uniform, shim_argv


def plan(job: Job, nodes: tuple[Node, ...], run_id: str) -> Plan:
    """Return a plan with one command per node; the ranks of a node are torchrun's children."""
    each = require_uniform(job, nodes)
    elastic = any(word.startswith(("--rdzv-backend", "--rdzv_backend")) for word in job.launcher_args)
    meeting: list[Text] = ["--master-addr=" + Late.MASTER_ADDR, "--master-port=" + Late.MASTER_PORT]
    if elastic:
        meeting = ["--rdzv-endpoint=" + Late.MASTER_ADDR + ":" + Late.MASTER_PORT]
    words = {
        node.number: (
            *(Late.PYTHON, "-m", "torch.distributed.run"),
            *(f"--nnodes={len(nodes)}", f"--node-rank={node.number}", f"--nproc-per-node={each}"),
            *(f"--rdzv-id={run_id}", *meeting, "--max-restarts=0", *_host(elastic, node), *job.launcher_args),
            *shim_argv(run_id),
        )
        for node in nodes
    }
    return per_node(job, nodes, run_id, words)


def _host(elastic: bool, node: Node) -> tuple[str, ...]:
    # otherwise it compares host names, and a wrong /etc/hosts makes no node, or every node, host the store
    return (f"--rdzv-conf=is_host={int(node.number == 0)}",) if elastic else ()
