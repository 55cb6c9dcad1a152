"""Looks at the pace of a run's ranks now and then, records it, and reports ranks that the others wait for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from muster.controller.snapshots import Snapshots
from muster.core.inspection import CollectiveTimes
from muster.core.model import Plan
from muster.core.pace import Pace
from muster.core.supervisor import Phase, Supervisor
from muster.diagnostics.stragglers import clocks_of, find_slow
from muster.linux.eventloop import EventLoop
from muster.ui.pace_text import slow_in_words

_WHEN = (20.0, 60.0, 300.0)
"""Seconds after the start of an attempt."""

_EVERY = 600.0
"""Seconds between further looks."""

_MOST = 128
"""Ranks of a run that is looked at without a request: it costs the controller about 5 ms per rank."""

REPORTED = 0.1
"""Share of the time for which the others wait, from which on that is reported without a request."""


class PaceController(Protocol):
    """The part of the controller that the watch uses."""

    loop: EventLoop
    plan: Plan
    supervisor: Supervisor
    snapshots: Snapshots

    def notify(self, text: str) -> None:
        """Show a message to the user."""

    def keep_pace(self, attempt: int, pace: Pace) -> None:
        """Write the pace of an attempt to the run directory."""


class PaceWatch:
    """The watch over one run."""

    def __init__(self, world: PaceController, operand: str) -> None:
        self._world, self._operand = world, operand
        self._before: frozenset[int] = frozenset()
        """The slow ranks at the last look."""
        self._told: set[frozenset[int]] = set()

    def begin(self) -> None:
        """Watch the attempt whose ranks are being started."""
        self._before = frozenset()
        # the collectives of several roles are not those of one group
        if 1 < self._world.plan.world_size <= _MOST and not self._world.plan.roles:
            self._later(self._world.supervisor.attempt, 0)

    def _later(self, attempt: int, looks: int) -> None:
        last = _WHEN[looks - 1] if 0 < looks <= len(_WHEN) else 0.0
        wait = _WHEN[looks] - last if looks < len(_WHEN) else _EVERY
        self._world.loop.call_later(wait, lambda: self._look(attempt, looks))

    def _look(self, attempt: int, looks: int) -> None:
        now = self._world.supervisor
        if now.attempt != attempt or now.phase is not Phase.RUNNING:
            return
        self._later(attempt, looks + 1)
        self._world.snapshots.times(lambda *told: self._compare(attempt, *told))

    def _compare(
        self, attempt: int, times: Sequence[CollectiveTimes], silent: Sequence[int], ahead: Sequence[float]
    ) -> None:
        plan = self._world.plan
        node_of = {rank.rank: node.number for node in plan.nodes for rank in node.ranks}
        pace = find_slow(times, node_of, clocks_of(ahead))
        if pace.nothing is not None:
            return
        self._world.keep_pace(attempt, pace)
        slow = frozenset(rank for found in pace.slow for rank in found.ranks)
        lasting, self._before = slow if slow == self._before else frozenset(), slow
        if lasting and pace.lost >= REPORTED and lasting not in self._told:
            self._told.add(lasting)
            what = slow_in_words(pace.slow[0], pace, plan.hosts)
            self._world.notify(f"warning: {what}; see `muster show {self._operand} --slow`")
