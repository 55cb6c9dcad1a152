"""How the ranks are started: a job and its nodes become a plan. One file, one function, one row each."""

from __future__ import annotations

from typing import Callable, NamedTuple

from muster.launchers import exec, fork
from muster.model import Job, Node, Plan


class Launcher(NamedTuple):
    """A row of the table."""

    plan: Callable[[Job, tuple[Node, ...], str], Plan]
    """`plan(job, nodes, run_id)`; raises `Impossible`."""
    says: str
    """What starts the ranks, for people."""


LAUNCHERS: dict[str, Launcher] = {
    "fork": Launcher(fork.plan, "forked from one warmed interpreter a node"),
    "exec": Launcher(exec.plan, "one plain process a rank"),
}
