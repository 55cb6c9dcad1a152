"""The attempts of a run and the lives of its ranks, from its events. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from muster.core.json_checks import NOT_UNDERSTOOD, number, optional, whole
from muster.core.json_records import failure_from_json
from muster.core.model import Plan
from muster.core.results import Failure, RankExit, RunResult
from muster.report.data import Attempt, RankSpan


class _Growing:
    """An attempt while its events are read."""

    def __init__(self, number: int, began: float) -> None:
        self.number, self.began = number, began
        self.started: dict[int, float] = {}
        self.output: dict[int, float] = {}
        self.ends: dict[int, RankExit] = {}
        self.signalled: set[int] = set()
        """Ranks that muster has signalled."""
        self.first: int | None = None
        """The rank whose failure led to a restart."""

    def made(self, node_of: Mapping[int, int], ends: Mapping[int, RankExit]) -> Attempt:
        """Return the attempt; `ends` are the exits as the result has them, for the last attempt."""
        known = {**self.ends, **ends}
        spans = tuple(
            RankSpan(
                rank,
                node,
                self.started.get(rank),
                self.output.get(rank),
                known[rank].when if rank in known else None,
                known.get(rank),
            )
            for rank, node in node_of.items()
        )
        over = len(known) == len(node_of) > 0
        ended = max((end.when for end in known.values()), default=self.began) if over else None
        return Attempt(self.number, self.began, ended, spans, known.get(self.first) if self.first is not None else None)


def attempts_of(
    events: Iterable[Mapping[str, Any]], plan: Plan | None, outcome: RunResult | None
) -> tuple[Attempt, ...]:
    """Return the attempts of a run, oldest first. Events that are damaged are left out."""
    if plan is None:
        return ()
    node_of = {rank.rank: node.number for node in plan.nodes for rank in node.ranks}
    ranks_of = {node.number: [rank.rank for rank in node.ranks] for node in plan.nodes}
    found: dict[int, _Growing] = {}
    last: _Growing | None = None
    for event in events:
        try:
            last = _take(event, found, last, node_of, ranks_of)
        except NOT_UNDERSTOOD:
            continue
    if outcome is not None and outcome.attempt in found:
        found[outcome.attempt].first = outcome.root_cause.rank if outcome.root_cause is not None else None
    ends = {end.rank: end for end in outcome.exits} if outcome is not None else {}
    return tuple(
        found[key].made(node_of, ends if outcome is not None and key == outcome.attempt else {})
        for key in sorted(found)
    )


def _take(
    event: Mapping[str, Any],
    found: dict[int, _Growing],
    last: _Growing | None,
    node_of: Mapping[int, int],
    ranks_of: Mapping[int, list[int]],
) -> _Growing | None:
    """Take one event; return the attempt that is under way after it."""
    kind = event["event"]
    if kind == "do signal" and last is not None:
        last.signalled.update(map(whole, event["ranks"]))
    elif kind == "do restarting" and last is not None and event.get("first") is not None:
        last.first = whole(event["first"]["rank"])
    if kind not in ("listening", "pids", "output began", "ended") or "attempt" not in event:
        return last
    key, at = whole(event["attempt"]), number(event["t"])
    if key not in found:
        found[key] = _Growing(key, at)
    growing = found[key]
    if kind == "pids":
        for rank in event["pids"]:
            if int(rank) in node_of:
                growing.started.setdefault(int(rank), at)
    elif kind == "output began" and event["rank"] in node_of:
        growing.output.setdefault(event["rank"], at)
    elif kind == "ended" and event["rank"] in node_of:
        growing.ends[event["rank"]] = _end(event, node_of, growing.signalled)
    return growing


def _end(event: Mapping[str, Any], node_of: Mapping[int, int], signalled: set[int]) -> RankExit:
    rank = whole(event["rank"])
    told = event.get("failure")
    failure: Failure | None = failure_from_json(told) if told is not None else None
    code = event.get("code")
    return RankExit(
        rank,
        node_of[rank],
        number(event["t"]),
        int(code) if code is not None else None,
        optional(whole)(event.get("signal")),
        by_muster=rank in signalled and code != 0,
        failure=failure,
        by_launcher=event.get("asked_by_launcher") is not None,
    )
