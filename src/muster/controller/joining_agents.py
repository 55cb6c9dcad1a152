"""Agents started by others, such as a scheduler's job step, which join their controller.

They read in the run directory where the controller is.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from muster.agent import code_tree
from muster.agent.dialer import Met
from muster.agent.join import RENDEZVOUS
from muster.code_sync import Tree
from muster.controller.agent_listener import AgentListener
from muster.controller.bootstrap import Need, Remedies, Routes
from muster.controller.connections import TcpConnection
from muster.linux import hardware
from muster.linux.eventloop import EventLoop
from muster.protocol import trace
from muster.protocol.frames import Dispatcher, handlers
from muster.protocol.handshake import Terms, new_nonce
from muster.protocol.listener import guarded
from muster.protocol.messages import TO_CONTROLLER
from muster.rundir.run import Run

PATIENCE = 120.0
"""Seconds for all agents to join."""

_MERCY = 15.0
"""Seconds for the last agents to join once there are enough without them, if there are spares."""

_LOOK = 0.2
"""Seconds between checks of the starter."""


class Starter(Protocol):
    """A way to start the agents."""

    def start(self) -> None:
        """Start the agents; they find what they need in the run directory."""

    def check(self, missing: Sequence[str], late: bool, spares: int = 0) -> Mapping[str, str]:
        """Return why agents will not join, by host. Raises `Unreachable` if they are more than `spares`.

        `missing`: the hosts whose agents have not joined. `late`: the deadline is over.
        """

    def leave_out(self, hosts: Sequence[str]) -> None:
        """End the agents of these hosts, which no run needs."""


class JoiningAgents:
    """The agents of a run that join this process, the controller, before there is a plan; an `AgentSource`."""

    remedies = Remedies(
        directory="copy it with `--sync`, share it, or choose another with --cwd",
        script="copy it with `--sync`, or share it",
        other_script="copy it with `--sync`, or share it",
    )
    one_run_dir, own_clock, controller_offset = True, False, 0.0

    def __init__(
        self,
        loop: EventLoop,
        run: Run,
        hosts: Sequence[str],
        lease: float,
        task: Mapping[str, str],
        starter: Starter,
        note: Callable[[str], object],
        spares: int = 0,
    ):
        """`task`: how an agent finds out which host it is on; see `schedulers.scheduler.Task`.

        `spares`: how many hosts may fail.
        """
        self.spares = spares
        self.failed: dict[str, str] = {}
        """Why agents did not join, by host."""
        self.loop, self.run, self.lease, self.starter, self.note = loop, run, lease, starter, note
        self._task = task
        self.links = [TcpConnection(number, host, 0.0, {}) for number, host in enumerate(hosts)]
        for link in self.links:
            link.channel.tracer = trace.tracer(str(run.path), "controller", "agent", link.host)
        self.secret, self.incarnation = new_nonce(), new_nonce()
        self.code: Tree | None = None
        self.sent = False
        """True if the code is to be sent: then a missing file counts as different, too."""
        self._dispatch = Dispatcher(
            handlers(self, "_on_"),
            lambda kind, fields: TO_CONTROLLER[kind].fitting(fields),
            lambda text, link: self.note(f"{link.host}: {text}"),
        )
        self.listener = hardware.listen()

    @property
    def reference(self) -> str:
        """The place of the reference code, for messages: the first node, where the controller is."""
        return f"the copy on {self.links[0].host}"

    def come(self, need: Need, run_dir: str) -> None:
        """Start the agents, and wait until all have joined and reported facts. Raises `Unreachable`."""
        self._tell_where(need)
        self.starter.start()
        terms = Terms(self.secret, self.run.id)
        callers = AgentListener(self.loop, self.listener, terms, self.incarnation, self._knows, self._came, self.note)
        deadline = time.monotonic() + PATIENCE
        try:
            while missing := [link.host for link in self.links if not link.facts and link.host not in self.failed]:
                left = self.spares - len(self.failed)
                if 0 < len(missing) <= left:
                    deadline = min(deadline, time.monotonic() + _MERCY)
                self.loop.run_once(_LOOK)
                self.failed.update(self.starter.check(missing, time.monotonic() > deadline, left))
        finally:
            callers.close()

    def arrange(self, order: Sequence[int]) -> None:
        """Keep the hosts with these numbers, numbered anew in this order, and end the other agents."""
        kept = [self.links[number] for number in order]
        left_out = [link for link in self.links if link not in kept]
        for link in left_out:
            if link.channel.connected:
                link.disconnect(self.loop)
        self.starter.leave_out([link.host for link in left_out])
        self.links = kept
        for number, link in enumerate(kept):
            link.node = number

    def _tell_where(self, need: Need) -> None:
        """Write into the run directory what an agent needs to join."""
        root = self.code.root if self.code is not None else ""
        where = {
            "addresses": [address for _, address in hardware.interfaces()] or ["127.0.0.1"],
            "port": self.listener.getsockname()[1],
            "secret": self.secret,
            "run": self.run.id,
            "hosts": [link.host for link in self.links],
            "lease": self.lease,
            "task": dict(self._task),
            "cwd": need.cwd,
            "script": need.script,
            "own": [[own.cwd, own.script] for own in need.of_nodes],
            "code": root,
            "code_place": code_tree.place(root) if root and not self.sent else [],
        }
        self.run.replace(RENDEZVOUS, json.dumps(where).encode())

    # ---- joining ----------------------------------------------------------------------------------------------------

    def _knows(self, node: int) -> int | None:
        if not 0 <= node < len(self.links):
            return None
        if self.links[node].channel.connected:
            self.links[node].disconnect(self.loop)
        return self.links[node].channel.received

    def _came(self, node: int, met: Met) -> None:
        link = self.links[node]
        link.connect(met)
        self.loop.add_reader(met.fd, lambda: self._heard(link))

    def _heard(self, link: TcpConnection) -> None:
        frames = link.channel.read()
        if frames is None:
            link.disconnect(self.loop)
            return
        with guarded(self.note, lambda: link.disconnect(self.loop)):
            for fields, payload in frames:
                self._dispatch(fields, payload, link)
            link.channel.flush()

    def _on_facts(self, link: TcpConnection, payload: bytes, t: float, name: str = "", **facts: Any) -> None:
        # both clocks are read within the latency of one message: accurate to a few milliseconds
        link.offset = t - time.monotonic()
        link.host = name or link.host
        link.facts.update(facts, name=name)

    def _on_scheduler_signal(self, link: TcpConnection, payload: bytes, **more: Any) -> None:
        """Ignore the report: a scheduler sends SIGTERM to this process too."""

    def close(self) -> None:
        """Stop listening, and disconnect the agents that joined."""
        for link in self.links:
            if link.channel.connected:
                link.disconnect(self.loop)
        self.listener.close()

    # ---- their facts ------------------------------------------------------------------------------------------------

    def measure_clocks(self) -> None:
        """Do nothing: the clocks were measured on joining."""

    def routes(self, addresses: Sequence[str]) -> Routes:
        """Return the routes: agents tried all addresses of this machine before they joined."""
        untried = {"error": "not tried"}
        ways = [{**dict.fromkeys(addresses, untried), **link.facts["ways"]} for link in self.links[1:]]
        return Routes(self.listener.getsockname()[1], ways)

    def run_dirs(self, run_dir: str, run_id: str) -> Sequence[tuple[str, bool]]:
        """Return the run directory, which all nodes share."""
        return [(run_dir, True)] * len(self.links)

    def differing(self, code: Tree) -> Mapping[str, Sequence[str]]:
        """Return by host the files that differ from the local ones."""
        found = {link.host: self.other_files(link, code.root) for link in self.links}
        return {host: names for host, names in found.items() if names}

    def code_remedy(self) -> str:
        """Return what --sync would do."""
        return "run one copy of the code on all nodes with `--sync`"

    def other_files(self, link: TcpConnection, root: str) -> list[str]:
        """Return the files of the code that are different on a node than below the local `root`."""
        found = []
        for number, name in enumerate(self.code.names if self.code is not None else ()):
            theirs, path = link.facts["digests"].get(str(number)), os.path.join(root, name)
            # symbolic links in a copy have other targets
            if theirs is None or os.path.islink(path) or (not theirs and not self.sent):
                continue
            if code_tree.digest(path) != theirs:
                found.append(name)
        return found
