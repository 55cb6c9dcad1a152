"""Hangs: no rank of the run makes progress for the time of --hang-timeout.

The agents measure (`agent/progress.py`). A run hangs if that is true of all nodes at once; then its ranks are
inspected, the verdict is shown and kept, and what --on-hang says is done. A rank with a debugger does not hang.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from muster.controller.connections import AgentConnection
from muster.controller.snapshots import Snapshots
from muster.core.events import Event, HangDetected
from muster.core.inspection import Snapshot, SnapshotReason
from muster.core.model import Plan
from muster.core.roles import ranks_of
from muster.core.supervisor import Phase, Supervisor
from muster.core.verdict import Activity, Verdict
from muster.diagnostics.hangs import verdict
from muster.ui.hang_text import evidence_in_words, verdict_in_words

_EVIDENCE = 6
"""Lines about what the ranks do that are shown."""


class HangsController(Protocol):
    """The part of the controller that this uses."""

    plan: Plan
    supervisor: Supervisor
    snapshots: Snapshots

    @property
    def links(self) -> Sequence[AgentConnection]:
        """The connections to all agents."""

    def now(self) -> float:
        """Return the seconds since muster was started."""

    def handle(self, event: Event) -> None:
        """Pass an event to the supervisor, and execute its actions."""


class Hangs:
    """Decides from the reports of the agents whether a run hangs. `patience`: seconds; 0 to watch nothing."""

    def __init__(self, world: HangsController, patience: float) -> None:
        self._world, self._patience = world, patience
        self._idle_since: dict[int, float] = {}
        """By node, when one of its ranks last made progress."""
        self._handled: float | None = None
        """The last such moment for which a hang was reported, or found to be none."""

    def begin(self) -> None:
        """Begin anew: ranks are started."""
        self._idle_since, self._handled = {}, None

    def idle(self, link: AgentConnection, attempt: int, since: float) -> None:
        """Handle that no rank of a node has made progress since this moment."""
        world = self._world
        if not self._patience or attempt != world.supervisor.attempt:
            return
        self._idle_since[link.node] = since
        nodes = [other.node for other in world.links if other.open]
        if world.supervisor.phase is not Phase.RUNNING or any(node not in self._idle_since for node in nodes):
            return
        newest = max(self._idle_since[node] for node in nodes)
        if world.now() - newest >= self._patience and (self._handled is None or newest > self._handled):
            self._handled = newest
            world.snapshots.take(SnapshotReason.HANG, lambda snapshot: self._judge(snapshot, newest))

    def _judge(self, snapshot: Snapshot, since: float) -> None:
        """Report a hang, unless a rank is in a debugger."""
        world = self._world
        if world.supervisor.phase is not Phase.RUNNING or snapshot.attempt != world.supervisor.attempt:
            return
        began, roles = time.time() - world.now(), ranks_of(world.plan)
        found = verdict(snapshot, world.supervisor.exits, world.plan.world_size, began, roles=roles)
        if is_debugged(snapshot, found):
            return
        nodes = world.plan.nodes
        hosts = {rank.rank: node.host.name for node in nodes for rank in node.ranks} if nodes[1:] else {}
        evidence = evidence_in_words(found, hosts)
        more = [f"  … and {len(evidence) - _EVIDENCE} more"] if len(evidence) > _EVIDENCE else []
        lines = (verdict_in_words(found, hosts), *evidence[:_EVIDENCE], *more)
        world.handle(HangDetected(world.now(), snapshot.attempt, world.now() - since, lines))


def is_debugged(snapshot: Snapshot, found: Verdict) -> bool:
    """Return whether a rank is in a debugger: at its prompt, or stopped by one from outside."""
    at_prompt = any(situation.activity is Activity.DEBUGGER for situation in found.situations)
    return at_prompt or any(thread.state == "t" for rank in snapshot.inspections for thread in rank.threads)
