"""A session: a detached run without ranks, whose agents host other runs, one after another (`muster hold`).

The controller of the session only brings a run to its agents; each run has a controller of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from muster.controller.connections import TcpConnection
from muster.core.controller_config import RECORD, ControllerConfig
from muster.core.events import JobEnding, StopRequested
from muster.core.model import Plan
from muster.core.supervisor import Phase, Supervisor
from muster.linux.eventloop import EventLoop
from muster.protocol.sealing import sealed
from muster.rundir.run import FUNCTION, Run

_LEAVES_WITHIN = 5.0
"""Seconds for the agents to have left a run whose result is known."""

_OF_RUN, _AFTER_RUN = 0.6, 2.0
"""The part of the time until a scheduler kills a job that the run on a session gets, and the seconds to leave it."""

_IDLE_LOOKS = 1.0

Reply = Callable[[Mapping[str, Any]], object]
"""Sends the answer to a client's request: `run_dir` of the run, or why it was `refused` with a `hint`."""


class HoldingController(Protocol):
    """The part of the controller that a session uses (`detached.py`)."""

    loop: EventLoop
    plan: Plan
    run: Run
    supervisor: Supervisor
    config: ControllerConfig
    secret: str

    @property
    def far(self) -> Sequence[TcpConnection]:
        """The connections to all agents."""

    def now(self) -> float:
        """Return the seconds since muster was started."""

    def handle(self, event: StopRequested | JobEnding) -> None:
        """Pass an event to the supervisor."""

    def record(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Write an event to events.jsonl."""

    def send_message(self, node: int, kind: str, payload: bytes = b"", /, **fields: Any) -> None:
        """Send a message to a node."""


class _Guest(NamedTuple):
    """The run that is on the session, or on its way there."""

    run_id: str
    run_dir: str
    """On node 0; empty if that is not known yet."""
    since: float
    """Unix time."""
    order: Mapping[str, Any]
    """What the client sent, until all nodes have it."""
    reply: Reply
    awaited: set[int]
    """Nodes that have not answered yet."""
    there: set[int]
    """Nodes where it is."""


class HeldRuns:
    """The runs of a session."""

    def __init__(self, world: HoldingController, idle: float) -> None:
        """`idle`: seconds without a run after which the session ends; 0 for no limit."""
        self.world, self.idle = world, idle
        self._guest: _Guest | None = None
        self._used_at: float | None = None
        """When the last run left, or the session became ready; None before."""
        self._ending = False
        self._waiting: list[Callable[[], object]] = []
        """Called once the run has left."""
        world.loop.call_later(_IDLE_LOOKS, self._look)

    @property
    def ready(self) -> bool:
        """Whether all nodes are ready for runs."""
        return self.world.supervisor.all_ready

    def state(self) -> dict[str, Any]:
        """Return the state of the session, for clients."""
        guest = self._guest
        idle = None if self._used_at is None or guest is not None else self.world.now() - self._used_at
        return {
            "ready": self.ready,
            "run": guest.run_id if guest is not None else "",
            "since": guest.since if guest is not None else 0.0,
            "idle": idle,
            "limit": self.idle,
        }

    def _look(self) -> None:
        """Look regularly whether the session was idle for too long."""
        now = self.world.now()
        if self.world.supervisor.phase is not Phase.STARTING:
            return
        if self.ready and self._used_at is None:
            self._used_at = now
        if self.idle and self._guest is None and self._used_at is not None and now - self._used_at >= self.idle:
            self.world.handle(StopRequested(now, 0, released=True, gone_for=self.idle))
            return
        self.world.loop.call_later(_IDLE_LOOKS, self._look)

    # ---- requests ---------------------------------------------------------------------------------------------------

    def release(self, by: str, force: bool, reply: Reply) -> None:
        """End the session, with `force` also the run that is on it."""
        guest = self._guest
        if guest is not None and not force and not self._has_ended(guest):
            reply({"refused": self._busy(guest), "hint": f"wait for it: muster wait {guest.run_id}; or add --force"})
            return
        reply({})
        self.stop(lambda: self.world.handle(StopRequested(self.world.now(), 0, by=by, released=True)), by)

    def job_ends(self, event: JobEnding) -> None:
        """End with the scheduler's job, after the run that is on the session has ended for the same reason."""
        guest, self._ending = self._guest, True
        if guest is None or self._has_ended(guest):
            self.world.handle(event)
            return
        within = event.within * _OF_RUN
        self.world.send_message(0, "stop_run", by="", cause=event.cause, within=round(within, 1))
        self._wait(guest, lambda: self.world.handle(replace(event, t=self.world.now())), within + _AFTER_RUN)

    def stop(self, then: Callable[[], object], by: str) -> None:
        """End the run that is on the session, if there is one, and call `then` once it has left."""
        guest = self._guest
        self._ending = True
        if guest is None:
            then()
            return
        if not self._has_ended(guest):
            self.world.send_message(0, "stop_run", by=by)
        self._wait(guest, then, self.world.plan.job.grace + 2 * _LEAVES_WITHIN)

    def begin(self, order: Mapping[str, Any], reply: Reply) -> None:
        """Bring a run to the agents of this session."""
        guest = self._guest
        parted = [link.host for link in self.world.far[: len(order["parts"])] if not link.channel.connected]
        if self._ending or self.world.supervisor.phase is not Phase.STARTING:
            reply({"refused": "the session is ending", "hint": "hold a new one: `muster hold`"})
        elif not self.ready:
            reply({"refused": "the session is still starting", "hint": "wait until `muster hold` returns"})
        elif parted:
            reply({"refused": f"no connection to {parted[0]}", "hint": "see `muster ps`"})
        elif guest is not None and not self._has_ended(guest):
            reply({"refused": self._busy(guest), "hint": f"wait for it: muster wait {guest.run_id}"})
        elif guest is not None:
            self._wait(guest, lambda: self.begin(order, reply), _LEAVES_WITHIN)
        else:
            self._begin(order, reply)

    def _busy(self, guest: _Guest) -> str:
        since = time.strftime("%H:%M:%S", time.localtime(guest.since))
        return f"{guest.run_id} runs on it since {since}"

    def _has_ended(self, guest: _Guest) -> bool:
        """Return whether the result of a run is known, so that its agents are about to leave it."""
        return not guest.awaited and bool(guest.run_dir) and Run(Path(guest.run_dir)).outcome is not None

    def _wait(self, guest: _Guest, then: Callable[[], object], most: float) -> None:
        """Call `then` once a run has left its agents, or after so many seconds."""
        if self._guest is None or self._guest.run_id != guest.run_id:
            then()
            return

        def go() -> None:
            if go in self._waiting:
                self._waiting.remove(go)
                then()

        self._waiting.append(go)
        self.world.loop.call_later(most, go)

    def _begin(self, order: Mapping[str, Any], reply: Reply) -> None:
        run_id, run_dir = order["run_id"], order["config"]["nodes"][0]["run_dir"]
        guest = _Guest(run_id, run_dir, time.time(), order, reply, set(range(len(order["parts"]))), set())
        self._guest = guest
        self.world.record("run began", {"t": self.world.now(), "run": run_id})
        self._send(guest, 0, 0)

    def _send(self, guest: _Guest, node: int, port: int) -> None:
        """Send a node its part. `port` is that of the run's controller, once that is known."""
        order = guest.order
        # monotonic clocks of this machine: when the command was started, and what makes it the client's time of day
        began, clock = time.monotonic() - order["age"], order["wall"] - time.monotonic()
        files = {}
        if node == 0:
            config = {**order["config"], "began": began, "clock": clock}
            texts = {**order["files"], RECORD: config}
            files = {name: json.dumps(data, indent=1) + "\n" for name, data in texts.items()}
        part = dict(order["parts"][node])
        if part["clock"] is not None:
            part["clock"] = clock - self.world.config.nodes[node].clock_offset
        told = {"configuration": part, "secret": order["secret"], "lease": order["lease"], "files": files}
        told.update(script=order["script"], umask=order["umask"])
        told.update(address=self.world.config.address, stays=False)
        if order["function"] and order["lacks"][node]:
            files[FUNCTION] = order["function"]
        if order["inherited"] is not None:
            told["inherited"] = order["inherited"]
        data = json.dumps(told).encode()
        data = sealed(self.world.secret, data) if node else data
        count = len(order["parts"])
        self.world.send_message(node, "start_run", data, run_id=guest.run_id, sealed=node > 0, port=port, nodes=count)

    # ---- answers of agents ------------------------------------------------------------------------------------------

    def hosted(self, node: int, run_id: str, failed: str, port: int, run_dir: str) -> None:
        """Handle that a node has its part of a run, or could not take it.

        With `run_dir`, that the run is there since before this controller was started.
        """
        if run_dir:
            self._adopt(node, run_id, run_dir)
            return
        guest = self._guest
        if guest is None or guest.run_id != run_id:
            return
        guest.awaited.discard(node)
        if failed:
            if node == 0:
                guest.awaited.clear()  # the others have not been sent their parts
            elif 0 in guest.there:
                self.world.send_message(0, "stop_run", by="the session")
            hint = "copy it there, or share its directory" if "script" in failed else "see agent.log of the session"
            self._answer({"refused": f"{self.world.far[node].host}: {failed}", "hint": hint})
        else:
            guest.there.add(node)
            for other in range(1, len(guest.order["parts"])) if node == 0 else ():
                self._send(guest, other, port)
        self._arrived()

    def _answer(self, fields: Mapping[str, Any]) -> None:
        """Answer the request for the run that is on its way, once."""
        if self._guest is not None:
            guest = self._guest
            self._guest = guest._replace(reply=lambda fields: None)
            guest.reply(fields)

    def _arrived(self) -> None:
        """Continue if all nodes have answered: the run is there, or has left all of them again."""
        guest = self._guest
        if guest is None or guest.awaited:
            return
        if 0 in guest.there:
            self._answer({"run_dir": guest.run_dir})
        elif guest.order:  # it was stopped, or its controller died
            self._answer({"refused": f"{guest.run_id} ended before all hosts had it", "hint": "start it again"})
        if not guest.there:
            self._guest, self._used_at = None, self.world.now()
            self.world.record("run left", {"t": self.world.now(), "run": guest.run_id})
            for go in tuple(self._waiting):
                go()

    def _adopt(self, node: int, run_id: str, run_dir: str) -> None:
        """Take in a run that an earlier controller of this session has brought to a node."""
        guest = self._guest
        if guest is None:
            guest = _Guest(run_id, "", time.time(), {}, lambda fields: None, set(), set())
        if guest.run_id == run_id:
            guest.there.add(node)
            self._guest = guest._replace(run_dir=run_dir) if node == 0 else guest

    def left(self, node: int, run_id: str) -> None:
        """Handle that a run has left a node."""
        guest = self._guest
        if guest is None or guest.run_id != run_id:
            return
        guest.there.discard(node)
        self._arrived()
