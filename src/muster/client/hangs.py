"""What the ranks of a run do now, or did last, and which of them keeps the others waiting."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from muster.client.client import Client, ask
from muster.client.inspection import inspect
from muster.client.reconcile import reconcile, require_known
from muster.core.inspection import Inspection, Snapshot, SnapshotReason
from muster.core.json_checks import NOT_UNDERSTOOD
from muster.core.results import RankExit, RunState
from muster.core.roles import ranks_of
from muster.core.verdict import Verdict, VerdictKind
from muster.diagnostics.hangs import verdict
from muster.errors import ControlError, InvalidRequest
from muster.rundir.run import Run
from muster.rundir.snapshots import last_snapshot
from muster.ui.reason_text import reason_in_words

_AGAIN, _PATIENCE = 0.8, 1.0
"""Seconds until a second look, if the first one cannot tell a wait from a hang and took no longer than `_PATIENCE`."""


class Look(NamedTuple):
    """A snapshot of a run, and what follows from it."""

    snapshot: Snapshot
    verdict: Verdict
    hosts: Mapping[int, str]
    """The host of each rank."""
    live: bool
    """False if the ranks have exited: the snapshot is the last one of the run."""


def look_at(run: Run, old: bool = False) -> Look:
    """Return what the ranks are doing now, or did last if the run has ended. `old`: stacks alone are enough.

    Raises `InvalidRequest` if the run is pending, or has ended without a record of what its ranks did.
    """
    with Client(run) as client:
        found = reconcile(run, client=client)
        require_known(run, found)
        if found.state is RunState.RUNNING:
            try:
                return _live(run, client, old)
            except ControlError:
                found = reconcile(run)
                if found.state is RunState.RUNNING:
                    raise
    if found.state is RunState.PENDING:
        raise InvalidRequest(
            f"{run.id} has no running ranks: {found.why or 'it is pending'}", "wait until it has started"
        )
    snapshot_ = last_snapshot(run)
    if snapshot_ is None:
        outcome = found.outcome
        how = reason_in_words(outcome.stopped) if outcome is not None else ""
        raise InvalidRequest(
            f"{run.id} has no running ranks, and no record of what they did" + (f": {how}" if how else ""),
            f"see how it ended: muster show {run.operand}",
        )
    return _judged(run, snapshot_, live=False)


def _live(run: Run, client: Client, old: bool) -> Look:
    """Return what the ranks are doing now, or the last look if all have just exited. Raises `ControlError`."""
    asked = time.monotonic()
    snapshot = _now(run, client, old)
    before = None if snapshot.inspections or snapshot.silent else last_snapshot(run)
    if before is not None and before.attempt == snapshot.attempt:
        return _judged(run, before, live=False)  # all of its ranks have just exited
    look = _judged(run, snapshot, live=True)
    took = time.monotonic() - asked
    if look.verdict.kind is VerdictKind.PROGRESS and not old and took < _PATIENCE:
        client.pause(_AGAIN)
        look = _judged(run, _now(run, client, old), live=True, earlier=snapshot)
    return look


def _now(run: Run, client: Client, old: bool) -> Snapshot:
    """Return what the ranks are doing now; `old`: only stacks from a controller that cannot tell more."""
    try:
        snapshot = inspect(run, client)
        for _ in range(_TRIES):
            if not any(map(_is_silent, snapshot.inspections)):
                break
            client.pause(_PAUSE)
            snapshot = _with_answers(snapshot, inspect(run, client))
        return snapshot
    except ControlError:
        if not old:
            raise
    answer = ask(run, "stacks", client)
    texts = {int(rank): str(text) for rank, text in answer.get("texts", {}).items()}
    mute = {int(rank): int(pid) for rank, pid in answer.get("mute", {}).items()}
    nodes = _nodes(run)
    found = [Inspection(rank, nodes.get(rank, 0), mute.get(rank, 0), texts.get(rank, "")) for rank in {**texts, **mute}]
    return Snapshot(0.0, SnapshotReason.REQUEST, 0, tuple(sorted(found)), tuple(answer.get("missing", ())))


_TRIES, _PAUSE = 2, 0.1
"""How often ranks that did not answer are asked again, since a busy machine may be slow, and the seconds between."""


def _is_silent(found: Inspection) -> bool:
    """Return whether a rank of Python did not answer that can."""
    state = found.threads[0].state if found.threads else ""
    return not found.stacks and state not in ("T", "t", "Z", "X", "D")


def _with_answers(first: Snapshot, second: Snapshot) -> Snapshot:
    """Return the second snapshot, with the answers of ranks that had answered only at the first time."""
    before = {found.rank: found for found in first.inspections if found.stacks}
    return second._replace(
        inspections=tuple(one if one.stacks else before.get(one.rank, one) for one in second.inspections)
    )


def _judged(run: Run, snapshot: Snapshot, live: bool, earlier: Snapshot | None = None) -> Look:
    nodes = _nodes(run)
    nodes.update((found.rank, found.node) for found in snapshot.inspections)
    names = dict(enumerate(run.hosts))
    hosts = {rank: names.get(node, f"node {node}") for rank, node in nodes.items()}
    began = run.job.get("time")
    roles = ranks_of(run.plan) if run.plan is not None else ()
    judged = verdict(snapshot, _exits(run, snapshot.attempt), len(nodes), began, earlier, roles)
    return Look(snapshot, judged, hosts, live)


def _nodes(run: Run) -> dict[int, int]:
    """Return the node of each rank as planned."""
    plan = run.plan
    return {rank.rank: node.number for node in plan.nodes for rank in node.ranks} if plan is not None else {}


def _exits(run: Run, attempt: int) -> tuple[RankExit, ...]:
    """Return which ranks of an attempt have exited, from the events of the run."""
    from muster.core.events import RankExited, event_from_json

    nodes, found = _nodes(run), []
    for data in run.events():
        if data["event"] != "ended":
            continue
        try:
            event = event_from_json(data)
        except NOT_UNDERSTOOD:
            continue
        if isinstance(event, RankExited) and event.attempt == attempt:
            node = nodes.get(event.rank, 0)
            found.append(RankExit(event.rank, node, event.t, event.code, event.signal, failure=event.failure))
    return tuple(found)
