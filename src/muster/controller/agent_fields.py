"""What an agent is told at its start, apart from the plan. Its own module: a client needs it without the controller."""

from __future__ import annotations

from typing import Any

from muster.core.model import Plan, TerminalSize

TORCH_FLOOR = "2.3"
"""The oldest torch version whose store accepts an already listening socket (`master_listen_fd`)."""


def terminal_fields(plan: Plan, size: TerminalSize | None) -> dict[str, Any] | None:
    """Return the pseudo-terminal of each rank, narrowed by the prefix if there are several; None without one."""
    if size is None:
        return None
    beside = len(f"[{plan.world_size - 1}] ") if plan.world_size > 1 else 0
    return size._replace(columns=max(size.columns - beside, 1))._asdict()


def node_name(plan: Plan, node: int, host: str) -> str:
    """Return the name of a node's directory in that of the run: its host, and its role if the host has several."""
    role = plan.role_of(node)
    return host if role is None or plan.hosts.count(host) < 2 else f"{host}-{role.name}"
