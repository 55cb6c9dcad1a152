"""How far the ranks of a node are with their collectives, as torch's server in each rank tells within milliseconds."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from muster.agent import flight_recorder, rank_server
from muster.agent.rank_server import Loop, Request, Subject

_MOST_GROUPS = 8
"""Maximum number of process groups of a rank that are reported: those with the most collectives."""

_WITHIN = 0.5
"""Seconds within which ranks must answer."""


class CollectiveCounts:
    """Asks ranks for the number of collectives that they have called; `called` has the answers so far."""

    def __init__(self, subjects: Iterable[Subject], loop: Loop) -> None:
        self.called: dict[int, dict[str, int]] = {}
        """By rank, then by process group."""
        self._requests: list[Request] = []
        until = time.monotonic() + _WITHIN
        for subject in subjects:
            if subject.socket and os.path.exists(subject.socket):
                self._ask(subject, loop, until)

    def _ask(self, subject: Subject, loop: Loop, until: float) -> None:
        def answered(body: bytes | None) -> None:
            # some milliseconds for each of many ranks, in which the agent does nothing else
            parsed = flight_recorder.parse(body) if body is not None and time.monotonic() < until else None
            if parsed is not None:
                groups = sorted(parsed[1], key=lambda group: -group.enqueued)[:_MOST_GROUPS]
                self.called[subject.rank] = {group.group: group.enqueued for group in groups}

        self._requests.append(Request(loop, subject.socket, rank_server.COLLECTIVES, answered))

    def stop(self) -> None:
        """Stop waiting for answers."""
        for request in reversed(self._requests):  # so that none starts because another one ends
            request.cancel()
