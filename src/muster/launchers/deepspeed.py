"""`deepspeed` on each node; it gives each script `--local_rank=N`. Its own ssh is not used: the agents are there."""

from __future__ import annotations

from muster.launchers.foreign import ADDRESS, FOLDER, PORT, PYTHON, each_node, shim
from muster.model import Job, Node, Plan


def plan(job: Job, nodes: tuple[Node, ...], run_id: str) -> Plan:
    """One command a node. Nodes may have different numbers of ranks."""
    hosts = "".join(f"{node.host.name} slots={len(node.ranks)}\n" for node in nodes)
    words = {
        node.number: (
            *(PYTHON, "-m", "deepspeed.launcher.runner", f"--hostfile={FOLDER}/hostfile", "--force_multi"),
            *("--no_ssh", f"--node_rank={node.number}", f"--master_addr={ADDRESS}", f"--master_port={PORT}"),
            *(*job.launcher_args, *shim(run_id)),
        )
        for node in nodes
    }
    return each_node(job, nodes, run_id, words, {"hostfile": hosts})
