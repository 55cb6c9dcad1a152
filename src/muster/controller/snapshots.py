"""Snapshots of a run: the agents are asked what their ranks are doing, and their answers are put together.

No node is waited for longer than a moment: a snapshot lists those that did not answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from muster.controller.connections import AgentConnection
from muster.core.events import SignalRanks
from muster.core.inspection import CollectiveTimes, Inspection, Snapshot, SnapshotReason
from muster.core.json_inspection import collective_times_from_json, inspection_from_json
from muster.core.results import SIGKILL
from muster.core.supervisor import Phase, Supervisor
from muster.linux.eventloop import EventLoop

WITHIN = 4.0
"""Seconds for agents to answer; they give their ranks less."""

_OF_END = 20.0
"""Seconds for the answers about ranks that have failed or are terminated: nobody waits for them, and the end of the run
completes the snapshot (`finish`)."""


class SnapshotsController(Protocol):
    """The part of the controller that snapshots use."""

    loop: EventLoop
    supervisor: Supervisor

    @property
    def links(self) -> Sequence[AgentConnection]:
        """The connections to all agents."""

    def now(self) -> float:
        """Return the seconds since muster was started."""

    def broadcast(self, kind: str, **fields: Any) -> None:
        """Send a message to all nodes."""

    def keep_snapshot(self, snapshot: Snapshot) -> None:
        """Write a snapshot to the run directory."""


class Answers:
    """The answers of the agents to one request, as far as they have come."""

    def __init__(self, nodes: Sequence[int], awaited: set[int], then: Callable[[Answers], object]) -> None:
        self.silent, self.awaited, self.then = set(nodes), awaited, then
        """`silent`: nodes that have not answered; `awaited`: those of them that still may."""
        self.found: list[Any] = []
        self.epochs: dict[int, float] = {}
        """The time of day minus the monotonic clock, by node."""


class Snapshots:
    """Takes snapshots, and writes those that are to be kept."""

    def __init__(self, world: SnapshotsController) -> None:
        self._world = world
        self._requests: dict[int, Answers] = {}
        self._count = 0
        self._ended: int | None = None
        """The last attempt whose ranks were inspected before they were terminated."""

    def take(
        self,
        reason: SnapshotReason,
        then: Callable[[Snapshot], object] = lambda snapshot: None,
        keep: bool = True,
        ranks: Sequence[int] | None = None,
        within: float = WITHIN,
    ) -> None:
        """Ask all agents what their ranks are doing; write the snapshot to `keep` it, then call `then` with it."""
        number = self._snapshot_request(reason, then, keep, within)
        self._world.broadcast("get_inspections", number=number, ranks=None if ranks is None else list(ranks))

    def before(self, action: SignalRanks) -> int | None:
        """Return the number of the inspection that agents make before they send this signal; None for none.

        The first signal of an attempt's end waits for it, and no later one: a user who presses Ctrl-C twice is in a
        hurry.
        """
        attempt = self._world.supervisor.attempt
        if action.number == SIGKILL or self._ended == attempt or not action.ranks:
            return None
        self._ended = attempt
        failed = self._world.supervisor.ends_by_failure
        return self._snapshot_request(SnapshotReason.FAILURE if failed else SnapshotReason.STOP, within=_OF_END)

    def rank_exited(self) -> None:
        """Ask the agents if a rank has just failed and the others are not signalled yet: they may lose it and fail."""
        supervisor = self._world.supervisor
        if supervisor.phase is Phase.ATTRIBUTING and self._ended != supervisor.attempt:
            self._ended = supervisor.attempt
            self.take(SnapshotReason.FAILURE, within=_OF_END)

    def times(self, then: Callable[[tuple[CollectiveTimes, ...], tuple[int, ...], tuple[float, ...]], object]) -> None:
        """Ask when all ranks called their last collectives.

        `then` is called with the times, the nodes that did not answer, and the clock offsets by node.
        """

        def complete(answers: Answers) -> None:
            then(tuple(sorted(answers.found)), tuple(sorted(answers.silent)), self._offsets(answers.epochs))

        self._world.broadcast("get_collectives", number=self._request(complete))

    def _snapshot_request(
        self,
        reason: SnapshotReason,
        then: Callable[[Snapshot], object] = lambda snapshot: None,
        keep: bool = True,
        within: float = WITHIN,
    ) -> int:
        when, attempt = self._world.now(), self._world.supervisor.attempt

        def complete(answers: Answers) -> None:
            found = tuple(sorted(answers.found, key=lambda inspection: inspection.rank))
            silent, offsets = tuple(sorted(answers.silent)), self._offsets(answers.epochs)
            snapshot = Snapshot(when, reason, attempt, found, silent, offsets)
            if keep and (found or silent):
                self._world.keep_snapshot(snapshot)
            then(snapshot)

        return self._request(complete, within)

    def _request(self, then: Callable[[Answers], object], within: float = WITHIN) -> int:
        self._count += 1
        number, links = self._count, self._world.links
        awaited = {link.node for link in links if link.open and link.channel.connected}
        self._requests[number] = Answers([link.node for link in links], awaited, then)
        self._world.loop.call_later(within if awaited else 0.0, lambda: self._complete(number))
        return number

    def answered(
        self, number: int, node: int, inspections: Sequence[Mapping[str, Any]], times: Sequence[Any], epoch: float
    ) -> None:
        """Handle the answer of a node. Raises `Malformed` if it is none."""
        answers = self._requests.get(number)
        if answers is None:
            return  # it came too late
        mine: list[Inspection | CollectiveTimes] = [
            *(inspection_from_json(data)._replace(node=node) for data in inspections),
            *map(collective_times_from_json, times),
        ]
        answers.silent.discard(node)
        answers.awaited.discard(node)
        answers.found += mine
        answers.epochs[node] = epoch
        if not answers.awaited:
            self._complete(number)

    def _complete(self, number: int) -> None:
        answers = self._requests.pop(number, None)
        if answers is not None:
            answers.then(answers)

    def finish(self) -> None:
        """Complete all snapshots with the answers that have come: the run ends."""
        for number in list(self._requests):
            self._complete(number)

    def _offsets(self, epochs: Mapping[int, float]) -> tuple[float, ...]:
        """Return by how many seconds the time of day of each node is ahead of that of node 0; 0 if unknown."""
        links = self._world.links
        if 0 not in epochs:
            return ()
        return tuple(
            round(link.offset - links[0].offset + epochs[link.node] - epochs[0], 6) if link.node in epochs else 0.0
            for link in links
        )
