"""The environment of ranks and of external launchers: every variable that muster sets, and why.

A plan contains what these functions return; agents apply it (`agent/rank_environment.py`) and decide nothing. Variables
set for all ranks (`--env`) override those that muster sets for a node, but not those that identify a rank.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from muster.core.model import ROLE, Job, Late, Node, NodeEnvironment, Plan, Rank, Text, Variables
from muster.schedulers import get_scheduler

if TYPE_CHECKING:
    from muster.schedulers.scheduler import TaskVariables

_GPUS = "CUDA_VISIBLE_DEVICES"


# ---- ranks ----------------------------------------------------------------------------------------------------------


def of_ranks(job: Job, nodes: Sequence[Node], run_id: str) -> tuple[NodeEnvironment, ...]:
    """Return the environments of ranks started by agents, by node, with torchrun's variables."""
    return tuple(
        NodeEnvironment(
            env={
                **_path(job),
                **_terminal(job),
                **_sizes(node.ranks[0]),
                "ROLE_NAME": job.role,
                **_run(job, run_id),
                "TORCHELASTIC_SIGNALS_TO_HANDLE": job.signals_to_handle,
                **_gpus(node),
                **job.env,
                **_store(),
                **_scheduled(job, node, nodes),
            },
            env_defaults=_defaults(node),
            ranks=_each(job, node.ranks),
        )
        for node in nodes
    )


def of_external_ranks(
    job: Job, nodes: Sequence[Node], run_id: str, external_rendezvous: bool, tasks: bool = False
) -> tuple[NodeEnvironment, ...]:
    """Return the environments of ranks started by an external launcher, by the node on which they are expected.

    `external_rendezvous`: the launcher itself provides the rendezvous. `tasks`: each rank is a task of the scheduler.
    """
    of_tasks = _of_tasks(job)
    role = {"ROLE_NAME": job.role}
    # a launcher like torchrun may have been given its own role by --launcher-args
    of_launcher = external_rendezvous and job.role == ROLE
    return tuple(
        NodeEnvironment(
            env={
                **_terminal(job),
                **_sizes(node.ranks[0]),
                **_run(job, run_id),
                **({} if of_launcher else role),
                **_gpus(node),
                **job.env,
                **({"TORCHELASTIC_RESTART_COUNT": Late.RESTART_COUNT} if external_rendezvous else _store()),
                **_scheduled(job, node, nodes),
            },
            env_defaults={**_defaults(node), **(role if of_launcher else {})},
            ranks=_each(job, node.ranks),
            # some launchers give each rank GPUs by their own numbering, or none; all ranks of a node see all its GPUs
            unset_pattern=_any(_GPUS, of_tasks.layout if of_tasks and tasks else ""),
            restored_pattern=_any(_GPUS, of_tasks.of_job(tasks) if of_tasks else ""),
        )
        for node in nodes
    )


def of_parents(job: Job, nodes: Sequence[Node], parents: Sequence[Node], run_id: str) -> tuple[NodeEnvironment, ...]:
    """Return the environments of scripts that spawn a node's ranks by themselves, each of which is one rank to muster.

    `nodes` have the intended ranks, `parents` the same nodes with one rank each.
    """
    world = sum(len(node.ranks) for node in nodes)
    return tuple(
        NodeEnvironment(
            env={
                **_path(job),
                **_terminal(job),
                "NODE_RANK": str(node.number),
                "NNODES": str(len(nodes)),
                "NPROC_PER_NODE": str(len(node.ranks)),
                "LOCAL_WORLD_SIZE": str(len(node.ranks)),
                "WORLD_SIZE": str(world),
                "TORCHELASTIC_RUN_ID": run_id,
                **_gpus(node),
                **job.env,
                **_meeting(),
                **_scheduled(job, parent, parents),
            },
            env_defaults=defaults_of_launcher(node) | _interfaces(parent),
            ranks=_each(job, parent.ranks),
        )
        for node, parent in zip(nodes, parents)
    )


def _each(job: Job, ranks: Iterable[Rank]) -> tuple[Variables, ...]:
    """Return the variables that differ between the ranks of a node."""
    of_tasks = _of_tasks(job)
    return tuple(
        {
            **_names(rank),
            "TORCHELASTIC_ERROR_FILE": Late.ERROR_FILE,
            **(of_tasks.of_rank(rank) if of_tasks else {}),
        }
        for rank in ranks
    )


def _names(rank: Rank) -> dict[str, Text]:
    return {
        "RANK": str(rank.rank),
        "LOCAL_RANK": str(rank.local_rank),
        "GROUP_RANK": str(rank.node),
        "ROLE_RANK": str(rank.rank),
    }


def _sizes(rank: Rank) -> dict[str, Text]:
    return {
        "WORLD_SIZE": str(rank.world_size),
        "LOCAL_WORLD_SIZE": str(rank.local_world_size),
        "GROUP_WORLD_SIZE": str(rank.nodes),
        "ROLE_WORLD_SIZE": str(rank.world_size),
    }


def _run(job: Job, run_id: str) -> dict[str, Text]:
    return {"TORCHELASTIC_RUN_ID": run_id, "TORCHELASTIC_MAX_RESTARTS": str(job.max_restarts)}


def _meeting() -> dict[str, Text]:
    return {
        "MASTER_ADDR": Late.MASTER_ADDR,
        "MASTER_PORT": Late.MASTER_PORT,
        "TORCHELASTIC_RESTART_COUNT": Late.RESTART_COUNT,
    }


def _store() -> dict[str, Text]:
    """Return the variables for a rendezvous at the store of the agent on node 0."""
    return {**_meeting(), "TORCHELASTIC_USE_AGENT_STORE": "True"}


def _gpus(node: Node) -> dict[str, Text]:
    return {_GPUS: ",".join(node.host.gpus)} if node.host.gpus else {}


def _terminal(job: Job) -> dict[str, Text]:
    return {"TERM": job.terminal.term} if job.terminal is not None and job.terminal.term else {}


def first_on_path(job: Job) -> bool:
    """Return whether the directory of a node's Python goes first on PATH, as if its environment were activated.

    Over ssh, no login shell has done that.
    """
    return job.transport == "ssh"


def _path(job: Job) -> dict[str, Text]:
    return {"PATH": Late.PATH} if first_on_path(job) else {}


def _scheduled(job: Job, node: Node, nodes: Sequence[Node]) -> dict[str, Text]:
    of_tasks = _of_tasks(job)
    return of_tasks.of_node(node, nodes, job.allocation) if of_tasks else {}


def _of_tasks(job: Job) -> TaskVariables | None:
    """Return the variables that the job's scheduler sets for its own tasks; None without a scheduler."""
    return get_scheduler(job.scheduler).variables if job.scheduler else None


def _defaults(node: Node) -> dict[str, Text]:
    return {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "1", **defaults_of_launcher(node), **_interfaces(node)}


def _interfaces(node: Node) -> dict[str, Text]:
    return interfaces(node.ranks[0].nodes > 1)


def interfaces(several_hosts: bool) -> dict[str, Text]:
    """Return the interfaces on which gloo, tensorpipe and NCCL reach the other nodes."""
    if not several_hosts:
        # All ranks are on this machine: then neither resolving its own name nor its network can cause trouble.
        return {"GLOO_SOCKET_IFNAME": "lo"}
    return {
        "GLOO_SOCKET_IFNAME": Late.INTERFACE,
        "TP_SOCKET_IFNAME": Late.INTERFACE,
        "NCCL_SOCKET_IFNAME": Late.NCCL_INTERFACE,
    }


def _any(*patterns: str) -> str:
    return "|".join(f"(?:{pattern})" for pattern in patterns if pattern)


# ---- external launchers ---------------------------------------------------------------------------------------------


def of_launcher(
    job: Job, node: Node, run_id: str, more: Variables, unset: str = "", elastic: bool = False
) -> dict[str, Text]:
    """Return the variables for an external launcher on a node; `more` are specific to the launcher.

    `unset` is a pattern of variables that it must not have, whoever sets them. `elastic`: it may be based on torchrun,
    which kills the other ranks after a timeout of its own.
    """
    grace = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(math.ceil(job.grace))} if elastic else {}
    chosen = {name: value for name, value in job.env.items() if not (unset and re.fullmatch(unset, name))}
    return {
        **_path(job),
        **_terminal(job),
        **grace,
        "TORCHELASTIC_RUN_ID": run_id,
        **_gpus(node),
        **chosen,
        **more,
    }


def defaults_of_launcher(node: Node) -> dict[str, Text]:
    """Return the variables for an external launcher unless the node has them."""
    # otherwise torchrun and others choose one thread and print a warning
    threads = node.host.threads
    return {"OMP_NUM_THREADS": Late.THREADS if threads is None else str(threads)} if threads != 0 else {}


def of_launcher_of_one_rank(job: Job, rank: Rank, run_id: str) -> dict[str, Text]:
    """Return the variables that are missing for a launcher that starts a single process without rank variables."""
    return {
        **_names(rank),
        **_sizes(rank),
        "ROLE_NAME": job.role,
        **_run(job, run_id),
        "TORCHELASTIC_SIGNALS_TO_HANDLE": job.signals_to_handle,
        "MASTER_ADDR": Late.MASTER_ADDR,
        "MASTER_PORT": Late.MASTER_PORT,
        "TORCHELASTIC_USE_AGENT_STORE": "False",
    }


# ---- late values ----------------------------------------------------------------------------------------------------


def late_values(address: str, port: int, attempt: int) -> dict[str, str]:
    """Return the late values that are known when an attempt starts."""
    return {
        Late.MASTER_ADDR.key: address,
        Late.MASTER_PORT.key: str(port),
        Late.RESTART_COUNT.key: str(attempt),
    }


def interface_values(name: str, several: bool) -> dict[str, str | None]:
    """Return the late values known after the rendezvous: the interface, and NCCL's if the node has `several`."""
    return {Late.INTERFACE.key: name or None, Late.NCCL_INTERFACE.key: (name or None) if several else None}


# ---- single ranks ----------------------------------------------------------------------------------------------------


class RankEnvironment(NamedTuple):
    """The environment of one rank, except what it inherits."""

    rank: int
    node: int
    host: str
    env: Variables
    env_defaults: Variables
    unset_pattern: str
    restored_pattern: str


def of_each_rank(plan: Plan) -> tuple[RankEnvironment, ...]:
    """Return the environments of all ranks, by rank."""
    return tuple(
        RankEnvironment(
            rank.rank,
            node.number,
            node.host.name,
            {**of.env, **own},
            of.env_defaults,
            of.unset_pattern,
            of.restored_pattern,
        )
        for node, of in zip(plan.nodes, plan.environments)
        for rank, own in zip(node.ranks, of.ranks)
    )
