"""What the launchers that start Python share: its command line and the variables of a node."""

from __future__ import annotations

from muster.model import Job, Node
from muster.ranks import shared_environment


def python_argv(job: Job) -> tuple[str, ...]:
    """The command line as a person would type it for one process."""
    if job.program.kind == "module":
        return (job.python, "-m", *job.program.argv)
    return (job.python, *job.program.argv)


def node_environment(job: Job, node: Node, run_id: str) -> dict[str, str]:
    """The variables that all ranks of a node share; what the person set comes last."""
    env = shared_environment(node.ranks[0], run_id, job.max_restarts, job.role, job.signals_to_handle)
    if node.host.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(node.host.gpus)
    env.update(job.env)
    return env


def node_defaults(job: Job, node: Node) -> dict[str, str]:
    """The variables that are set where the node has none of its own."""
    env = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "1"}
    if node.host.threads:
        env["OMP_NUM_THREADS"] = str(node.host.threads)
    if node.ranks[0].nodes == 1:
        # All ranks meet on this machine: neither the look-up of its own name nor its network can be in the way.
        env["GLOO_SOCKET_IFNAME"] = "lo"
    return env
