"""`deepspeed` on each node; it passes `--local_rank=N` to each script. Its own ssh is not used: the agents start it."""

from __future__ import annotations

from muster.core.model import Job, Late, Node, Plan
from muster.launchers._external import own_file, per_node, shim_argv


def plan(job: Job, nodes: tuple[Node, ...], run_id: str) -> Plan:
    """Return a plan with one command per node. Nodes may have different numbers of ranks."""
    text = "".join(f"{node.host.name} slots={len(node.ranks)}\n" for node in nodes)
    hosts = own_file("hostfile", text)
    words = {
        node.number: (
            *(Late.PYTHON, "-m", "deepspeed.launcher.runner", "--hostfile=" + hosts.path, "--force_multi"),
            *("--no_ssh", f"--node_rank={node.number}"),
            *("--master_addr=" + Late.MASTER_ADDR, "--master_port=" + Late.MASTER_PORT),
            *(*job.launcher_args, *shim_argv(run_id)),
        )
        for node in nodes
    }
    return per_node(job, nodes, run_id, words, [hosts])
