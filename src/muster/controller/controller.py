"""Connects a plan, the supervisor and the agents: frames become events, and the supervisor's actions become frames.

This is the common part of the controller in the terminal that started the run (`foreground.py`), and on node 0
(`detached.py`).
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence, Set
from functools import partial
from signal import Signals
from typing import Any

from muster.controller.agent_fields import TORCH_FLOOR, node_name
from muster.controller.connections import AgentConnection
from muster.controller.hangs import Hangs
from muster.controller.pace_watch import PaceWatch
from muster.controller.snapshots import Snapshots
from muster.core import roles
from muster.core.controller_config import ControllerConfig
from muster.core.events import (
    JOB_ENDS,
    NAMES,
    NOTICES,
    Action,
    AgentReady,
    CleanedUp,
    CleanUp,
    Event,
    Finish,
    JobEnding,
    LogIncomplete,
    NodeLost,
    OpenStore,
    RankExited,
    RanksMissed,
    RanksStarted,
    Replace,
    SignalRanks,
    StartFailed,
    StartRanks,
    StopRequested,
    StoreDied,
    StoreOpened,
    Tick,
)
from muster.core.fold import by_value
from muster.core.inspection import Snapshot, SnapshotReason
from muster.core.json_checks import NOT_UNDERSTOOD, Malformed
from muster.core.json_records import (
    facts_from_json,
    failure_from_json,
    leftover_from_json,
    problem_from_json,
    usage_from_json,
)
from muster.core.layout import named
from muster.core.model import AUTHENTICATED, Late, Plan, Role, as_json
from muster.core.pace import Pace
from muster.core.plurals import plural
from muster.core.printable import line as safe
from muster.core.provenance import PROVENANCE, provenance_as_json, provenance_from_json
from muster.core.rank_env import late_values
from muster.core.registrations import Registrations
from muster.core.rendezvous import LOOPBACK
from muster.core.results import (
    SIGKILL,
    SIGTERM,
    Failure,
    FailureKind,
    OnHang,
    Problem,
    ProblemKind,
    Replaced,
    RunResult,
)
from muster.core.supervisor import Phase, Supervisor, SupervisorConfig
from muster.launchers import LAUNCHERS
from muster.linux import processes
from muster.linux.eventloop import EventLoop
from muster.protocol.frames import Dispatcher, encode_frame, handlers
from muster.protocol.messages import TO_CONTROLLER
from muster.protocol.paths import resources_name
from muster.report import import_ahead
from muster.rundir.pace import write_pace
from muster.rundir.run import Run
from muster.rundir.snapshots import write_snapshot
from muster.rundir.writer import RunWriter
from muster.schedulers import get_scheduler, title
from muster.schedulers.scheduler import SignalRules
from muster.ui.death_text import signal_name
from muster.ui.reason_text import folded, notice_in_words, processes_in_words

TOGETHER = 3.0
"""Seconds to wait after one node failed to start, so that other failures are reported in the same message."""


def settings_of(plan: Plan, first_attempt: int = 0, replaced: tuple[Replaced, ...] = ()) -> SupervisorConfig:
    """Return the supervisor's configuration for a plan."""
    job = plan.job
    ranks = [rank for node in plan.nodes for rank in node.ranks]
    return SupervisorConfig(
        ranks=tuple(rank.rank for rank in ranks),
        nodes=len(plan.nodes),
        node_of=tuple(rank.node for rank in ranks),
        grace=job.grace,
        timeout=job.timeout,
        max_restarts=job.max_restarts,
        always_restart=job.always_restart,
        restart_delay=job.restart_delay,
        hosts=(*plan.hosts, *(host.name for host in plan.spares)),
        replaced=replaced,
        on_hang=OnHang(job.on_hang),
        foreign=frozenset(rank for part in plan.parts if part.rank_command for rank in part.own_ranks),
        in_job=job.transport == "step",
        first_attempt=first_attempt,
        stores=plan.stores,
        roles=roles.ranks_of(plan),
        main=frozenset(rank for role in plan.roles if role.main for rank in role.own_ranks),
    )


_AT_ONCE = 0.3
"""Seconds within which all nodes report a signal that was sent to all of them."""

_UNDER_WAY = 2.0
"""Seconds for the ranks' messages to arrive after their launcher has exited."""


class _Forwarded:
    """A signal that the agents forward to the ranks that handle it."""

    def __init__(self) -> None:
        self.sent_here = self.told = False
        self.nodes: set[int] = set()
        """Those that have reported it; one on a busy machine does so after the user was told."""
        self.ranks: list[int] = []
        """The ranks of which the user is not told yet."""


class Controller:
    """Executes the supervisor's decisions for one run, and reports events to it. Subclasses know who watches."""

    def __init__(
        self,
        loop: EventLoop,
        plan: Plan,
        run: Run,
        links: Sequence[AgentConnection],
        config: ControllerConfig,
    ):
        self.loop, self.plan, self.run, self.links, self.config = loop, plan, run, list(links), config
        self.began = config.began
        """When muster was started, by this machine's monotonic clock; every `t` counts from here."""
        self.supervisor = Supervisor(settings_of(plan, config.first_attempt, config.replaced))
        self.outcome: RunResult | None = None
        self.begun = False
        """True once ranks are about to start for the first time."""
        self.facts: dict[str, Any] = {}
        self.world_size = plan.world_size
        self._parts = {node: part for part in plan.parts for node in part.own_nodes}
        """The program of each node."""
        self.registrations = {
            part.first_node: Registrations(
                part.own_ranks,
                {number: len(plan.nodes[number].ranks) for number in part.own_nodes},
                launchers=len({command.node for command in plan.commands} & set(part.own_nodes)),
            )
            for part in plan.parts
        }
        """By the first node of a program: its ranks that an external launcher has started."""
        self._passed: dict[int, _Forwarded] = {}
        """By signal: the last one that was forwarded."""
        self._sent_here: set[int] = set()
        """Those signals that were sent to muster, not by a scheduler to the agents."""
        self._versions: dict[int, tuple[Any, Any]] = {}
        """(torch, CUDA) versions of each node."""
        self._unable: dict[int, Problem] = {}
        """Why nodes cannot start their ranks, until that is reported."""
        self._dispatch = Dispatcher(handlers(self, "_on_"), _fitting, self._skipped)
        self.snapshots = Snapshots(self)
        self.pace = PaceWatch(self, run.id)
        self._failing = False
        """True once a rank has failed."""
        self._described: set[int] = set()
        """Nodes of which it is recorded what runs there."""
        self.hangs = Hangs(self, plan.job.hang_timeout)
        self._full: dict[int, set[tuple[int, str]]] = {}
        """By node: (rank, stream) of logs that currently cannot be written."""

    scribe: RunWriter
    """Writes the files of the run; set by subclasses."""

    # ---- for subclasses ---------------------------------------------------------------------------------------------

    def record(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Write an event to events.jsonl, and pass it to views."""
        raise NotImplementedError

    def keep_file(self, name: str, data: bytes) -> None:
        """Write a file of the run directory."""
        raise NotImplementedError

    def notify(self, text: str) -> None:
        """Show a message to the user."""
        raise NotImplementedError

    def begin(self) -> None:
        """Handle that the ranks are about to start."""
        raise NotImplementedError

    def replace(self, action: Replace) -> None:
        """Have a spare host take the place of a node; only runs on several hosts have spares."""
        raise NotImplementedError

    def swept(self, link: AgentConnection) -> bool:
        """Clean up a node in another way than by its agent; return True if nothing else can be done."""
        return False

    def keep_snapshot(self, snapshot: Snapshot) -> None:
        """Write a snapshot to the run directory; of a failure, find out for which ranks the others waited."""
        self.scribe.do(partial(write_snapshot, self.run, snapshot))
        if snapshot.reason is SnapshotReason.FAILURE and snapshot.attempt == self.supervisor.attempt:
            from muster.controller.missed_ranks import missed_ranks  # only failures need it

            settings = self.supervisor.settings
            hosts = {rank: self.links[node].host for rank, node in zip(settings.ranks, settings.node_of)}
            found = missed_ranks(snapshot, self.supervisor.exits, self.world_size, hosts, settings.roles)
            if found is not None:
                self.handle(RanksMissed(self.now(), snapshot.attempt, *found))

    def keep_pace(self, attempt: int, pace: Pace) -> None:
        """Write the pace of an attempt to the run directory."""
        self.scribe.do(partial(write_pace, self.run, attempt, pace))

    # ---- the loop ---------------------------------------------------------------------------------------------------

    def run_once(self) -> None:
        """Wait for an event or the supervisor's deadline, and handle it."""
        deadline = self.supervisor.deadline
        self.loop.run_once(None if deadline is None else deadline - self.now())
        if self.supervisor.deadline is not None and self.now() >= self.supervisor.deadline:
            self.handle(Tick(self.now()))

    def now(self) -> float:
        """Return the seconds since muster was started."""
        return self.loop.time() - self.began

    def handle(self, event: Event) -> None:
        """Pass an event to the supervisor, and execute its actions."""
        self.record(NAMES[type(event)], fields_of(event))
        for action in self.supervisor.handle(event):
            self.execute(action)
        if isinstance(event, RankExited):
            self.snapshots.rank_exited()
            if event.code != 0 and not self._failing:
                self._failing = True
                import_ahead()

    # ---- actions ----------------------------------------------------------------------------------------------------

    def execute(self, action: Action) -> None:
        """Execute an action of the supervisor."""
        self.record("do " + NAMES[type(action)], {} if isinstance(action, Finish) else fields_of(action))
        if isinstance(action, OpenStore):
            self.listen(action)
        elif isinstance(action, StartRanks):
            for registrations in self.registrations.values():
                registrations.begin()
            self.hangs.begin()
            if not self.begun:
                self.begun = True
                self.begin()
            self.pace.begin()
            for link in self.links:
                self.start(link, action)
        elif isinstance(action, SignalRanks):
            ranks, inspect = set(action.ranks), self.snapshots.before(action)
            for node in self.plan.nodes:
                self.signal(node.number, action.number, ranks, inspect)
        elif isinstance(action, CleanUp):
            for link in self.links:
                if not self.swept(link):
                    self.send_message(link.node, "clean_up", patience=action.patience, well=self.supervisor.ends_well)
        elif isinstance(action, Replace):
            self.replace(action)
        elif isinstance(action, NOTICES):
            self.notify(notice_in_words(action, self.supervisor.settings.roles))
        else:
            self.snapshots.finish()
            self.outcome = action.outcome

    def signal(self, node: int, number: int, ranks: Set[int], inspect: int | None = None) -> None:
        """Have a node signal its ranks; an agent counts these requests, also those for no rank of its node."""
        part, more = self._parts[node], {}
        here = [rank.rank for rank in self.plan.nodes[node].ranks if rank.rank in ranks]
        if part.rank_command is not None:
            # it is not known beforehand where the launcher puts which rank; a launcher still starting ranks is
            # signalled too
            registered = self.registrations[part.first_node].registered
            here = [rank for rank in part.own_ranks if rank in ranks]
            more = {"launchers": number == SIGKILL or len(registered) < part.ranks}
        self.send_message(node, "signal_ranks", number=number, ranks=here, inspect=inspect, **more)

    def listen(self, action: OpenStore) -> None:
        """Have node 0, or the first node of each role, open the port of an attempt's store."""
        for node in self.plan.stores:
            self.open_store(node, action.attempt)

    def open_store(self, node: int, attempt: int) -> None:
        """Have a node open the port of an attempt's store."""
        several = bool(self.plan.roles)
        host = self.config.nodes[node].address if several else self.config.address
        more = {**({"free": True} if several else {}), **({"relays": True} if self.relays else {})}
        self.send_message(node, "open_store", attempt=attempt, host=LOOPBACK.address if self.relays else host, **more)

    def start(self, link: AgentConnection, action: StartRanks) -> None:
        """Have a node start its ranks."""
        late = late_values(self.config.address, action.port, action.attempt)
        if self.plan.roles:
            addresses = [known.address for known in self.config.nodes]
            ports = {node: (store.port, store.free) for node, store in self.supervisor.stores.items()}
            late.update(roles.late_values(self.plan, link.node, addresses, ports))
        more: dict[str, int] = {}
        if self.relays:
            late[Late.MASTER_ADDR.key] = LOOPBACK.address
            store_node = roles.store_node(self.plan, link.node)
            more = {"store_node": store_node} if store_node != link.node else {}
        of_node = {**self.config.nodes[link.node].late, **late}
        self.send_message(link.node, "start_ranks", attempt=action.attempt, late=of_node, **more)

    @property
    def relays(self) -> bool:
        """Whether connections of ranks to the store on another node cross the connections of the agents."""
        return self.plan.job.rendezvous == AUTHENTICATED and self.config.address != LOOPBACK.address

    def send_message(self, node: int, kind: str, payload: bytes = b"", /, **fields: Any) -> None:
        """Send a message to a node."""
        self.send_frames(self.links[node], encode_frame(kind, payload, **fields))

    def broadcast(self, kind: str, **fields: Any) -> None:
        """Send a message to all nodes."""
        frame = encode_frame(kind, **fields)
        for link in self.links:
            self.send_frames(link, frame)

    def send_frames(self, link: AgentConnection, data: bytes) -> None:
        """Send complete frames."""
        if link.open:
            link.channel.send(data)
            self.flush(link)

    def flush(self, link: AgentConnection) -> None:
        """Write what the connection accepts now, and the rest later."""
        link.channel.pump(self.loop, lambda: self.flush(link))

    def pass_on(self, number: int) -> None:
        """Forward a signal that was sent to muster to the ranks that handle it."""
        self._sent_here.add(number)
        self.broadcast("forward_signal", number=number)

    # ---- messages ---------------------------------------------------------------------------------------------------

    def receive(self, link: AgentConnection, frames: Sequence[tuple[dict[str, Any], bytes]]) -> None:
        """Handle messages of an agent."""
        for fields, payload in frames:
            kind = fields["kind"]
            try:
                self._dispatch(fields, payload, link, self.when(link, fields.get("t")))
            except NOT_UNDERSTOOD as error:
                if link.open:
                    self.record(
                        "not understood", {"node": link.node, "kind": kind, "why": traceback.format_exc(limit=-3)}
                    )
                    self.lost(link, f"invalid message `{kind}` from the agent on {link.host}: {error!r}")
                return
        self.flush(link)

    def _skipped(self, text: str, link: AgentConnection, t: float) -> None:
        self.record("skipped", {"t": t, "node": link.node, "text": text})

    def when(self, link: AgentConnection, t: float | None) -> float:
        """Convert a time of an agent's clock to seconds since muster was started; None means now."""
        return self.now() if t is None else t - link.offset - self.began

    def lost(self, link: AgentConnection, why: str) -> None:
        """Handle that an agent is gone for good."""
        link.open = False
        self.handle(NodeLost(self.now(), link.node, why))

    def _on_ready(self, link: AgentConnection, t: float, payload: bytes, fork: bool, why: str, **facts: Any) -> None:
        times = {name: self.when(link, when) for name, when in (facts.pop("times", None) or {}).items()}
        warm = {"node": link.node, "t": t, "fork": fork, "torch": facts.get("torch"), "times": times}
        self.record("warm", {**warm, **({"found": facts["found"]} if facts.get("found") else {})})
        self._versions[link.node] = (facts.get("torch"), facts.get("cuda"))
        if link.node == 0:
            self.facts.update({name: value for name, value in facts.items() if value}, fork=fork)
        if why:
            self.notify(f"warning: {link.host}: cannot fork ranks, starting one interpreter per rank: {safe(why)}")
        differ = self._differ() if len(self._versions) == len(self.links) else None
        if differ is not None:
            self.handle(StartFailed(t, link.node, (differ,)))
        else:
            self.handle(AgentReady(t, link.node))
        self._tell_unable()

    def _differ(self) -> Problem | None:
        """Return a version that differs between the nodes and must not; None if all agree."""
        for name, index in (("torch", 0), ("CUDA", 1)):
            told = tuple(
                (link.host, str(self._versions[link.node][index] or "none"))
                for link in self.links
                if self._versions[link.node][0]  # an agent reports no version if it was not asked for one
            )
            if len(by_value(told)) > 1:
                return Problem(ProblemKind.VERSIONS, tuple(host for host, _ in told), name=name, values=told)
        return None

    def _on_store_opened(
        self, link: AgentConnection, t: float, payload: bytes, attempt: int, port: int, free: int = 0
    ) -> None:
        self.handle(StoreOpened(t, attempt, port, link.node, free))

    def _on_relay(
        self,
        link: AgentConnection,
        t: float,
        payload: bytes,
        attempt: int,
        node: int,
        number: int,
        offset: int,
        last: bool,
    ) -> None:
        if self._reaches(node):
            at = {"attempt": attempt, "node": link.node, "number": number}
            self.send_message(node, "relay", payload, **at, offset=offset, last=last)

    def _on_relay_taken(
        self, link: AgentConnection, t: float, payload: bytes, attempt: int, node: int, number: int, upto: int
    ) -> None:
        if self._reaches(node):
            self.send_message(node, "relay_taken", attempt=attempt, node=link.node, number=number, upto=upto)

    def _on_relay_end(
        self, link: AgentConnection, t: float, payload: bytes, attempt: int, node: int, number: int
    ) -> None:
        if self._reaches(node):
            self.send_message(node, "relay_end", attempt=attempt, node=link.node, number=number)

    def _reaches(self, node: int) -> bool:
        """Return whether messages about connections to the store are forwarded to this node."""
        return self.relays and node < len(self.links)

    def _on_ranks_started(
        self, link: AgentConnection, t: float, payload: bytes, attempt: int, pids: Mapping[str, int]
    ) -> None:
        self.record("pids", {"t": t, "node": link.node, "attempt": attempt, "pids": pids})
        self.handle(RanksStarted(t, link.node, attempt))

    def _on_rank_registered(
        self,
        link: AgentConnection,
        t: float,
        payload: bytes,
        attempt: int,
        rank: int,
        launcher: str,
        world_size: int | None,
    ) -> None:
        """Handle that a rank started by an external launcher has registered."""
        if attempt != self.supervisor.attempt:
            return
        self.record("joined", {"t": t, "node": link.node, "rank": rank, "attempt": attempt, "says": launcher})
        part = self._parts[link.node]
        self.registrations[part.first_node].register(rank, link.node)
        if world_size is not None and world_size != part.ranks:
            asked = plural(part.ranks, "rank")
            self._fail_missing(part, f"{part.job.launcher} started a world of {world_size}, requested: {asked}", [])

    def _on_rank_pids(
        self, link: AgentConnection, t: float, payload: bytes, attempt: int, pids: Mapping[str, int]
    ) -> None:
        self.record("pids", {"t": t, "node": link.node, "attempt": attempt, "pids": pids})

    def _on_launcher_exited(
        self,
        link: AgentConnection,
        t: float,
        payload: bytes,
        attempt: int,
        code: int | None,
        signal: int | None,
        name: str,
        words: list[str],
    ) -> None:
        """Handle that an external launcher has exited. Ranks that have not registered by then never will."""
        if attempt != self.supervisor.attempt:
            return
        how = f"exit status {code}" if signal is None else f"killed by {signal_name(signal)}"
        self.record("launcher ended", {"t": t, "node": link.node, "name": name, "how": how, "words": words})
        part = self._parts[link.node]
        registrations = self.registrations[part.first_node]
        registrations.launcher_exited(link.node, f"{name} on {link.host}: {how}", words)
        if registrations.all_launchers_exited:
            # messages of ranks on other nodes may still be in flight
            self.loop.call_later(_UNDER_WAY, lambda: self._count_registered(part, attempt))
        elif code != 0:
            self.loop.call_later(_UNDER_WAY, lambda: self._count_registered(part, attempt, link.node))

    def _count_registered(self, part: Role, attempt: int, node: int | None = None) -> None:
        """Treat missing ranks as a failure, whatever the launcher's exit code is.

        `node`: only its launcher has exited yet, and the ranks of that node are counted.
        """
        over = self.supervisor.phase in (Phase.CLEANUP, Phase.FINISHED)
        registrations = self.registrations[part.first_node]
        if attempt == self.supervisor.attempt and not over and registrations.awaits(node):
            self._fail_missing(part, *registrations.how_launchers_exited())

    def _fail_missing(self, part: Role, why: str, words: Sequence[str]) -> None:
        """Report the missing ranks of a program as failed."""
        registrations = self.registrations[part.first_node]
        missing = [rank for rank in registrations.give_up() if self.supervisor.lives(rank)]
        first = self.supervisor.phase is Phase.RUNNING
        package = LAUNCHERS[part.job.launcher].package
        if package and any("No module named" in line for line in words):
            words = [*words, f"hint: {part.job.python} -m pip install '{package}', on each node"]
        registered = f"{len(registrations.registered)} of {plural(part.ranks, 'rank')} did"
        text = f"never registered ({registered}): {why}"
        for rank in missing:
            failure = Failure(FailureKind.NEVER_REGISTERED, self.now(), text, tuple(words)) if first else None
            code, number = (125, None) if first else (None, SIGTERM)  # otherwise something else failed before
            self.handle(RankExited(self.now(), rank, self.supervisor.attempt, code, number, failure))

    def _on_exec_request(
        self,
        link: AgentConnection,
        t: float,
        payload: bytes,
        number: int,
        host: str,
        words: list[str],
        env: Mapping[str, str],
    ) -> None:
        """Handle a launcher's request to run a command on another node."""
        label, part = host.partition(".")[0], self._parts[link.node]
        own = [other for other in self.links if other.node in part.own_nodes]
        # some launchers truncate hostnames at the first dot
        there = [other for other in own if other.host == host] or [
            other for other in own if other.host.partition(".")[0] == label
        ]
        if len(there) == 1:
            self.send_message(there[0].node, "exec", number=number, words=words, env=env, by=link.node)
        else:
            self.notify(
                f"warning: {part.job.launcher} tried to start a process on {safe(host)}, not a host of this run"
            )
            self.send_message(link.node, "exec_result", number=number, code=255)

    def _on_exec_exited(self, link: AgentConnection, t: float, payload: bytes, number: int, code: int, by: int) -> None:
        self.send_message(by, "exec_result", number=number, code=code)

    def _on_signal_forwarded(
        self, link: AgentConnection, t: float, payload: bytes, number: int, ranks: list[int]
    ) -> None:
        """Handle that a signal was forwarded to ranks; every node reports it, and the user is told once."""
        last = self._passed.get(number)
        if last is None or (last.told and link.node in last.nodes):
            last = self._passed[number] = _Forwarded()
        last.sent_here = last.sent_here or number in self._sent_here
        self._sent_here.discard(number)
        if not last.ranks and (ranks or not last.told):
            self.loop.call_later(_AT_ONCE, lambda: self._tell_passed(number, last))
        last.nodes.add(link.node)
        last.ranks += ranks

    def _tell_passed(self, number: int, last: _Forwarded) -> None:
        ranks, last.ranks, late, last.told = last.ranks, [], last.told, True
        job = self.plan.job
        sender = "" if last.sent_here or not job.scheduler else f" from {title(job.scheduler)}"
        names = {int(known): known.name for known in Signals}
        name = names.get(number, f"signal {number}")
        if ranks:
            self.notify(f"received {name}{sender}, forwarded to {named(ranks)}")
        elif (
            not late
            and name[3:] not in (get_scheduler(job.scheduler).signals if job.scheduler else SignalRules()).beside
        ):
            self.notify(f"received {name}{sender}, not forwarded: no rank handles it")

    def _on_first_output(self, link: AgentConnection, t: float, payload: bytes, rank: int, attempt: int) -> None:
        self.record("output began", {"t": t, "rank": rank, "attempt": attempt})

    def _on_unlogged(
        self,
        link: AgentConnection,
        t: float,
        payload: bytes,
        attempt: int,
        rank: int,
        stream: str,
        missing: int,
        why: str,
        going_on: bool,
    ) -> None:
        """Handle that a rank's log cannot be written, or can again; reported once for all logs of a node."""
        self.handle(LogIncomplete(t, link.node, attempt, rank, stream, missing, why))
        full = self._full.setdefault(link.node, set())
        before = bool(full)
        (full.add if going_on else full.discard)((rank, stream))
        where = f" on {link.host}" if self.links[1:] else ""
        if going_on and not before:
            self.notify(
                f"warning: cannot write logs{where}: {safe(why)}; the ranks continue, part of their output is lost"
            )
        elif before and not full:
            self.notify(f"logs are written again{where}")

    def _on_cleanup_waiting(self, link: AgentConnection, t: float, payload: bytes, left: list[dict[str, Any]]) -> None:
        grace = self.plan.job.grace
        self.notify(
            f"the ranks exited, orphaned processes remain: {processes_in_words(map(leftover_from_json, left))}\n"
            f"waiting up to {grace:g}s for them to exit; press Ctrl-C to kill them now"
        )

    def _on_provenance(self, link: AgentConnection, t: float, payload: bytes, found: dict[str, Any]) -> None:
        """Record what runs on a node. A controller that was restarted gets it again."""
        if link.node in self._described:
            return
        self._described.add(link.node)
        try:
            described = provenance_from_json({**found, "node": link.node})
        except Malformed as error:  # it comes from a Python that users may change; no run fails because of it
            self._skipped(f"what runs on {link.host}: {error}", link, t)
        else:
            self.record(PROVENANCE, {"t": t, **provenance_as_json(described)})

    def _on_note(self, link: AgentConnection, t: float, payload: bytes, text: str) -> None:
        self.notify(f"{link.host}: {safe(text)}")

    def _on_rank_exited(
        self,
        link: AgentConnection,
        t: float,
        payload: bytes,
        attempt: int,
        rank: int,
        code: int | None,
        signal: int | None,
        why: Mapping[str, Any] | None = None,
        asked: float | None = None,
        usage: Mapping[str, Any] | None = None,
        facts: Mapping[str, Any] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        failure = None if why is None else failure_from_json({**why, "when": self.when(link, why["t"])})
        failure = roles.with_run_ranks(failure, rank, self.supervisor.settings.roles)
        by_launcher = None if asked is None else self.when(link, asked)
        used = usage_from_json(usage) if usage is not None else None
        known = facts_from_json(facts) if facts is not None else None
        self.handle(RankExited(t, rank, attempt, code, signal, failure, by_launcher, used, known, tuple(notes)))

    def _on_rank_resources(self, link: AgentConnection, t: float, payload: bytes, attempt: int, began: float) -> None:
        """Write the resources of a node over time, with `start`: their first time in seconds since the run was
        started."""
        data = b'{"start":%.3f,%s' % (self.when(link, began), payload[1:])
        self.keep_file(f"attempt_{attempt}/{resources_name(link.node)}", data)

    def _on_store_exited(
        self, link: AgentConnection, t: float, payload: bytes, code: int | None, signal: int | None
    ) -> None:
        folder = processes.node_folder(str(self.run.path), node_name(self.plan, link.node, link.host))
        self.handle(StoreDied(t, code, signal, f"{folder}/store.log"))

    def _on_start_failed(self, link: AgentConnection, t: float, payload: bytes, what: str, **fields: Any) -> None:
        python = link.facts.get("executable") or self.plan.job.python
        several = len(self.links) > 1
        told = {**fields, "kind": what, "hosts": [link.host], "python": python, "among_others": several}
        self._unable[link.node] = problem_from_json(told)._replace(needed=TORCH_FLOOR)
        if len(self._unable) == 1 and self.supervisor.phase is Phase.STARTING:
            self.loop.call_later(TOGETHER, lambda: self._tell_unable(True))
        self._tell_unable(self.supervisor.phase is not Phase.STARTING)

    def _tell_unable(self, now: bool = False) -> None:
        """Report the nodes that cannot start their ranks, once all nodes have answered, or `now`."""
        if self.outcome is not None or not self._unable:
            return
        if not (now or set(self._versions) | set(self._unable) >= set(range(len(self.links)))):
            return
        node, problems = min(self._unable), folded(self._unable.values())
        self._unable = {}
        self.handle(StartFailed(self.now(), node, problems))

    def _on_cleaned_up(
        self, link: AgentConnection, t: float, payload: bytes, ended: list[dict[str, Any]], left: list[dict[str, Any]]
    ) -> None:
        killed, alive = (tuple(map(leftover_from_json, several)) for several in (ended, left))
        self.handle(CleanedUp(t, link.node, killed, alive))

    def _on_no_progress(self, link: AgentConnection, t: float, payload: bytes, attempt: int, since: float) -> None:
        self.hangs.idle(link, attempt, self.when(link, since))

    def _on_rank_inspections(
        self, link: AgentConnection, t: float, payload: bytes, number: int, inspections: list[Any], epoch: float
    ) -> None:
        self.snapshots.answered(number, link.node, inspections, (), epoch)

    def _on_rank_collectives(
        self, link: AgentConnection, t: float, payload: bytes, number: int, times: list[Any], epoch: float
    ) -> None:
        self.snapshots.answered(number, link.node, (), times, epoch)

    def _on_stop_requested(
        self, link: AgentConnection, t: float, payload: bytes, what: str, by: str, cause: str = "", within: float = 0.0
    ) -> None:
        self.handle(JobEnding(t, cause, within) if cause in JOB_ENDS else StopRequested(t, 0, by))

    def job_ends(self, event: JobEnding) -> None:
        """Handle that the scheduler ends the job."""
        self.handle(event)

    def _on_agent_crashed(self, link: AgentConnection, t: float, payload: bytes, text: str, limit: bool) -> None:
        link.broken = next(reversed(text.strip().splitlines()), "no reason given")


def _fitting(kind: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields of an agent's message without the time, which all kinds have in common."""
    given = TO_CONTROLLER[kind].fitting(fields)
    given.pop("t", None)
    return given


def fields_of(record: Any) -> dict[str, Any]:
    """Return an event or an action as it is written to events.jsonl."""
    return {name: as_json(value) for name, value in vars(record).items()}
