"""Requests to an agent from other processes on its machine: commands of the same user, and ranks of a launcher."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from muster.agent.context import NodeRun
from muster.agent.ranks import RankProcesses
from muster.linux import processes
from muster.linux.exits import Ended
from muster.protocol import frames, local_sockets
from muster.protocol.channel import Emit
from muster.protocol.frames import VERSION, Dispatcher, Refused, encode_frame
from muster.protocol.listener import FirstFew, LocalListener, Peer

if TYPE_CHECKING:
    from muster.agent.external import ExternalRanks


INSPECTED_WITHIN = 0.8
"""Seconds within which ranks must answer an inspection."""


def open_sockets(sockets: local_sockets.Sockets, of_ranks: str | None, emit: Emit) -> list[socket.socket]:
    """Return the listening sockets for requests; none after an error.

    `of_ranks`: the token by which the ranks of a launcher find this agent, None without them. It is that of the run
    unless the run has roles: then a host may have several agents. Raises OSError for a socket that such ranks need.
    """
    found = []
    if of_ranks is not None:
        found.append(sockets._replace(token=of_ranks).listen(local_sockets.AGENT))
    if of_ranks != sockets.token:
        try:
            found.append(sockets.listen(local_sockets.AGENT))
        except OSError as error:
            why = f"`muster kill` and `muster stacks` are not available: {processes.reason_at(error)}"
            emit("note", text=f"warning: {why}")
    return found


class LocalRequests:
    """Listens on local sockets, and answers requests."""

    def __init__(
        self, run: NodeRun, ranks: RankProcesses, lost: Callable[[str], object], visitors: Sequence[socket.socket]
    ) -> None:
        """`lost` ends the ranks and the agent for the given reason."""
        self.run, self.ranks, self._lost = run, ranks, lost
        self._dispatch = Dispatcher(frames.handlers(self, "visit_"), _fitting, lambda text, _: run.complain(text))
        loop, note = run.loop, FirstFew(run.complain)
        self._listeners = [
            LocalListener(loop, each, lambda sock: Peer(loop, sock, self._handle, self._left, note), note)
            for each in visitors
        ]

    def close(self) -> None:
        """Stop listening."""
        for listener in self._listeners:
            listener.close()
            listener.sock.close()

    def _left(self, visitor: Peer) -> None:
        """Handle the end of a local connection."""
        if self.ranks.external is not None:
            self.ranks.external.on_disconnected(visitor)

    def _handle(self, visitor: Peer, fields: Mapping[str, Any], payload: bytes) -> None:
        """Handle a message from another process of this user."""
        if self.run.trace:
            self._print(visitor, fields, payload)
        if not self._dispatch(fields, payload, visitor):
            visitor.send(encode_frame("unknown", what=fields["kind"], version=VERSION))

    def _print(self, visitor: Peer, fields: Mapping[str, Any], payload: bytes) -> None:
        """Trace this message, and from now on those sent there."""
        from muster.protocol.trace import Tracer

        if visitor.tracer is None:
            there = "shim" if fields["kind"] in ("register", "exec_request") else "client"
            visitor.tracer = Tracer(self.run.folder, "agent", there)
        visitor.tracer.heard(fields, payload)

    def visit_state(self, visitor: Peer, payload: bytes, version: int = 0) -> None:
        """Report the protocol version to a newer client."""
        visitor.send(encode_frame("answer", version=VERSION))

    def visit_kill(self, visitor: Peer, payload: bytes, by: str | None = None) -> None:
        """Forward a request to end the run to the controller, which decides."""
        self.run.emit("stop_requested", what="kill", by=by or "")
        visitor.send(encode_frame("answer", version=VERSION))

    def visit_end(self, visitor: Peer, payload: bytes) -> None:
        """End the ranks: the controller did not act on the request."""
        self._lost("stopped by `muster kill`")
        visitor.send(encode_frame("answer", version=VERSION))

    def visit_stacks(self, visitor: Peer, payload: bytes, ranks: list[int] | None = None) -> None:
        """Report the current Python stacks of these ranks."""
        self.ranks.tell_stacks(
            ranks, lambda texts, mute: visitor.send(encode_frame("answer", texts=texts, mute=mute, version=VERSION))
        )

    def visit_inspect(self, visitor: Peer, payload: bytes, ranks: list[int] | None = None, keep: bool = False) -> None:
        """Report what these ranks are doing."""

        def tell(found: list[dict[str, Any]]) -> None:
            snapshot = {"when": 0.0, "reason": "request", "attempt": self.ranks.attempt, "inspections": found}
            visitor.send(encode_frame("answer", snapshot=snapshot, version=VERSION))

        self.ranks.tell_inspections(ranks, tell, INSPECTED_WITHIN)

    def visit_collectives(self, visitor: Peer, payload: bytes) -> None:
        """Report when the ranks called their last collectives."""
        self.ranks.tell_collectives(
            lambda times: visitor.send(encode_frame("answer", times=times, version=VERSION)), INSPECTED_WITHIN
        )

    def visit_usage(
        self,
        visitor: Peer,
        payload: bytes,
        progress: bool = False,
        tail_of: int | None = None,
        only_steps: bool = False,
    ) -> None:
        """Report the resource usage of the ranks, their progress, and the last output of one of them."""

        def tell(ranks: dict[int, dict[str, Any]]) -> None:
            visitor.send(encode_frame("answer", ranks=ranks, version=VERSION))

        self.ranks.tell_usage(tell, progress, tail_of, only_steps)

    def _external(self) -> ExternalRanks:
        """Return the ranks of the external launcher. Raises `Refused` if there is none."""
        if self.ranks.external is None:
            raise Refused("this run has no external launcher")
        return self.ranks.external

    def visit_register(
        self, visitor: Peer, payload: bytes, version: int, rank: int, launcher: str, **more: Any
    ) -> None:
        """Register a rank that an external launcher started."""
        if version != VERSION:
            visitor.send(
                encode_frame("rank_command", refused=f"protocol version {version} of the rank, {VERSION} of the agent")
            )
            return
        visitor.send(
            encode_frame(
                "rank_command", **self._external().register(visitor, {"rank": rank, "launcher": launcher, **more})
            )
        )

    def visit_exec_request(
        self, visitor: Peer, payload: bytes, host: str, words: list[str], env: Mapping[str, str]
    ) -> None:
        """Forward a launcher's request to run a command on another node."""
        self._external().request_exec(visitor, host, words, env)

    def visit_started(self, visitor: Peer, payload: bytes, pid: int) -> None:
        """Record the process of a registered rank."""
        self._external().on_started(visitor, pid)

    def visit_exited(
        self,
        visitor: Peer,
        payload: bytes,
        code: int | None,
        signal: int | None,
        asked: float | None = None,
        usage: dict[str, Any] | None = None,
        limits: dict[str, list[int | None]] | None = None,
        cgroups: str = "",
    ) -> None:
        """Record the exit of a registered rank."""
        self._external().on_exited(visitor, Ended(0, code, signal, usage or {}, limits or {}, cgroups), asked)


def _fitting(kind: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    # imported late: most agents never need it, and it takes some milliseconds
    from muster.protocol.messages import ON_MACHINE

    return ON_MACHINE[kind].fitting(fields)
