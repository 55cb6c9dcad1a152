"""The agent of a session: it starts no ranks of its own, keeps an interpreter warm, and hosts one run after another."""

from __future__ import annotations

import json
import os
import traceback
from typing import Any

from muster.agent.agent import Agent
from muster.agent.controller_process import Standby
from muster.agent.forkserver import write_hook
from muster.agent.hosted import HostedAgent, start
from muster.agent.preloaded import PreloadedInterpreter
from muster.agent.ranks import Hosting
from muster.linux import processes
from muster.protocol.sealing import unsealed

_ENDS_WITHIN = 10.0
"""Seconds for a run to end after the session has."""

_LATER = 1.0
"""Seconds after which the agent looks for what others left."""


class Held:
    """What the agent of a session has beside other agents."""

    def __init__(self, agent: Agent) -> None:
        self.agent, self.ranks = agent, agent.ranks
        self.warm = PreloadedInterpreter(
            agent.loop, self.ranks.names, agent.folder, self.ranks.hook_folder, self._known
        )
        self.hosted: HostedAgent | None = None
        """The run that is here."""
        self.standby: Standby | None = None
        """What forks the controllers of runs; only on node 0."""
        self._told = False
        self._leaves_by = 0.0
        self._end, self._told_of_end = "", ""
        """What to tell users about the end of the job, and the last run that was told."""
        self._warned: dict[str, set[int]] = {}
        """The ranks of the run that were warned of the end of the job."""

    def prepare(self) -> None:
        """Start the preloaded interpreter, and report `ready` once it is known whether it works."""
        write_hook(self.ranks.hook_folder, self.ranks.hook)
        command = self.ranks.commands[0]
        self.warm.start(self.ranks.env(), self.ranks.preload, command["cwd"])
        self.agent.loop.call_later(_LATER, self.ranks.sweep)
        self.refill()

    def _known(self) -> None:
        if not self._told:
            self._told = True
            torch, cuda = (self.warm.facts.get(name) for name in ("torch", "cuda"))
            self.agent.emit("ready", fork=self.warm.ready, why=self.warm.why, torch=torch, cuda=cuda)

    def refill(self) -> None:
        """Have a fork server wait for the next run, and a controller, where the controllers of runs are."""
        self.warm.refill()
        if self.agent.node:
            return
        try:
            if self.standby is None or self.standby.dead:
                self.standby = Standby(self.agent.loop, self.agent.run_dir, self.agent.supervisor_started)
            self.standby.refill()
        except OSError as error:
            self.agent.complain(f"cannot start a controller in advance: {processes.reason_at(error)}")

    def start_run(self, payload: bytes, run_id: str, sealed: bool, port: int, nodes: int) -> None:
        """Host a run. The reply is `run_hosted`, with why that failed or with the port of its controller."""
        failed, here = "", 0
        if self.hosted is not None:
            self.hosted.turn()
            self.turn()
        if self.hosted is not None:
            failed = f"{self.hosted.run_id} is still here"
            self.agent.emit("run_hosted", run_id=run_id, failed=failed, port=0, run_dir="")
            return
        try:
            if sealed:
                assert self.agent.dialer is not None
                payload = unsealed(self.agent.dialer.terms.secret, payload)
            order: dict[str, Any] = json.loads(payload)
            here = self._host(order, port, nodes)
        except OSError as error:
            failed = processes.reason_at(error) if error.errno else str(error)
        except Exception:
            failed = traceback.format_exc(limit=-1).strip()
            self.agent.complain(traceback.format_exc())
        if failed and self.hosted is not None:
            self.hosted.over = True
        self.agent.emit("run_hosted", run_id=run_id, failed=failed, port=here, run_dir="")
        self.turn()

    def tell_run(self) -> None:
        """Tell a new controller of the session which run is here."""
        if self.hosted is not None and self.hosted.prepared and not self.hosted.over:
            hosted = self.hosted
            self.agent.emit("run_hosted", run_id=hosted.run_id, failed="", port=0, run_dir=hosted.run_dir)

    def _host(self, order: dict[str, Any], port: int, nodes: int) -> int:
        inherited, script = order.pop("inherited", None), order.pop("script")
        if script:
            self._check(script["path"], script["digest"])
        hosting = Hosting(self.ranks, self.warm, self.standby, order.pop("umask"))
        env: dict[str, str] = dict(os.environ) if inherited is None else dict(inherited)
        self.hosted = HostedAgent(self.agent.loop, self.agent.hook, hosting, env)
        return start(self.hosted, {**order, "port": port}, door=not port and nodes > 1)

    def _check(self, path: str, digest: str) -> None:
        """Raise OSError if the script of a run is missing here, or another one than where the run was started."""
        from muster.agent import facts

        found = facts.file_digest(path)
        if not found:
            raise OSError(f"script {path} not found")
        if found != digest:
            raise OSError(f"script {path} differs from the one of the command")

    def stop_run(self, by: str, cause: str, within: float) -> None:
        """Have the controller of the run end it, if it is on this node.

        `cause`: why the scheduler ends the job, which leaves `within` seconds; empty if a user ends it.
        """
        if self.hosted is not None and self.hosted.controller is not None:
            self.hosted.emit("stop_requested", what="kill", by=by, cause=cause, within=within)

    def warn(self, number: int, cause: str) -> list[int]:
        """Send a signal to the ranks that handle it, because the job is about to end; return them."""
        hosted = self.hosted
        if hosted is None or not hosted.prepared or hosted.over:
            return []
        self._tell_of_end()
        ranks = hosted.ranks.warn(number)
        if ranks and set(ranks) - self._warned.get(hosted.run_id, set()):
            self._warned = {hosted.run_id: set(ranks)}
            hosted.emit("preemption_handlers", ranks=ranks, cause=cause)
        return ranks

    def tell(self, text: str) -> None:
        """Tell the user of the run, and of later ones, that the job is about to end."""
        self._end = text
        self._tell_of_end()

    def _tell_of_end(self) -> None:
        """Send the message to the controller of the run, once, if that is on this node."""
        hosted = self.hosted
        if not self._end or hosted is None or hosted.controller is None or not hosted.prepared:
            return
        if hosted.run_id != self._told_of_end:
            self._told_of_end = hosted.run_id
            hosted.emit("note", text=self._end)

    def turn(self) -> None:
        """Continue after events: the run that is here may have ended."""
        hosted = self.hosted
        if hosted is None:
            return
        hosted.turn()
        if hosted.over:
            self.hosted = None
            run_id = getattr(hosted, "run_id", "")
            hosted.close()
            self.agent.emit("run_left", run_id=run_id)
            if not self.agent.leaving:
                self.refill()

    @property
    def busy(self) -> bool:
        """Whether a run is still ending here, after the end of the session."""
        return self.hosted is not None and self.agent.loop.time() < self._leaves_by

    def end(self) -> None:
        """End the preloaded interpreter and the controller that waits."""
        self.warm.end()
        if self.hosted is not None:  # it lost the same host as the session
            self._leaves_by = self.agent.loop.time() + _ENDS_WITHIN
            self.agent.loop.call_later(_ENDS_WITHIN, lambda: None)
        if self.standby is not None:
            self.standby.close()
