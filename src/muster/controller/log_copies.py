"""Copies of the logs of nodes that have their own run directory, made on node 0."""

from __future__ import annotations

from functools import partial

from muster.agent.log_streaming import KEEP, RESULT
from muster.agent.log_timeline import NAME, Timeline
from muster.controller.connections import AgentConnection
from muster.controller.controller import Controller
from muster.core.events import LogIncomplete
from muster.linux import processes
from muster.rundir.writer import RunWriter

Log = tuple[AgentConnection, int, int, str]
"""A log: its node, attempt, rank and stream."""


class LogCopies:
    """Subscribes to the output of nodes, writes it, and accounts for what is missing."""

    def __init__(self, controller: Controller, scribe: RunWriter) -> None:
        self.controller, self.scribe = controller, scribe
        config = controller.config
        self._here = controller.links[0].host
        self._clock = config.clock
        self._timelines: dict[str, Timeline] = {}
        """Times of output on hosts with their own run directory, as it arrives."""
        self._gaps: dict[str, Log] = {}
        """Incomplete copies of logs."""
        self._told_to_stay: set[str] = set()
        """The hosts of these."""

    def subscribe(self, link: AgentConnection) -> None:
        """Have a node send its output, from the end of the copies on."""
        self.controller.send_message(
            link.node, "subscribe", reader=KEEP, want=True, offsets=self.offsets(link), tail=None
        )

    def offsets(self, link: AgentConnection) -> dict[str, int]:
        """Return how much of a node's output has been mirrored here, by log."""
        found = {}
        for attempt in self.controller.run.attempts():
            for rank in self.controller.plan.nodes[link.node].ranks:
                for stream in ("out", "err", RESULT):
                    path = self.controller.run.log(attempt, rank.rank, stream)
                    if path.exists():
                        found[f"{attempt}/{rank.rank}.{stream}"] = path.stat().st_size
        return found

    def take(self, link: AgentConnection, attempt: int, rank: int, stream: str, offset: int, payload: bytes) -> None:
        """Write output of a node."""
        name = f"attempt_{attempt}/{self.controller.run.log(attempt, rank, stream).name}"
        of = (link, attempt, rank, stream)
        self.scribe.put(name, offset, payload, partial(self._kept_more, name, of, len(payload)))
        if stream != RESULT:
            self._timeline(link).grown(attempt, [(rank, stream, offset + len(payload))])

    def _kept_more(self, name: str, of: Log, count: int) -> None:
        """Handle that another node's output was written here, or could not be: then the node must keep its own copy."""
        if name in self.scribe.gaps and name not in self._gaps:
            self._cannot_keep(name, of)
        self.controller.send_message(of[0].node, "credit", reader=KEEP, count=count)

    def _cannot_keep(self, name: str, of: Log) -> None:
        link = of[0]
        if link.host not in self._told_to_stay:
            self._told_to_stay.add(link.host)
            self.controller.send_message(link.node, "keep_run_dir")
            where = f"they remain on {link.host} in {self._run_dir(link)}"
            why = self.scribe.gaps[name].why
            self.controller.notify(f"warning: cannot copy logs of {link.host} to {self._here}: {why}; {where}")
        self._gaps[name] = of
        self._tell_gap(name)

    def _run_dir(self, link: AgentConnection) -> str:
        return self.controller.config.nodes[link.node].run_dir

    def _tell_gap(self, name: str) -> None:
        """Record what a copy is missing by now, like gaps in other logs."""
        (link, attempt, rank, stream), gap = self._gaps[name], self.scribe.gaps.get(name)
        if gap is not None:
            why = f"{gap.why} on {self._here}; the complete log is on {link.host} in {self._run_dir(link)}"
            now = self.controller.now()
            self.controller.handle(LogIncomplete(now, link.node, attempt, rank, stream, gap.missing, why))

    def _timeline(self, link: AgentConnection) -> Timeline:
        if link.host not in self._timelines:
            loop = self.controller.loop
            name = f"{processes.node_folder('', link.host)}/{NAME}"

            def write(data: bytes) -> bool:
                behind = self.scribe.behind(name)  # drop the line: the queue would grow without bound
                self.scribe.append(name, "" if behind else data.decode())
                return not behind

            self._timelines[link.host] = Timeline(write, loop.call_later, lambda: loop.time() + self._clock)
        return self._timelines[link.host]

    def finish(self) -> bool:
        """Write everything that arrived, and record what copies are missing. True if a copy is incomplete."""
        for timeline in self._timelines.values():
            timeline.flush()
        self.scribe.writer.drain()
        for name in self._gaps:
            self._tell_gap(name)
        return bool(self._gaps)
