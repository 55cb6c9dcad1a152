"""A run on a session, whose agents and preloaded interpreters are there already (`muster run --on NAME`)."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from muster.agent import facts
from muster.client import remote
from muster.client.attach import AttachedClient
from muster.client.client import sync_files
from muster.client.session import SessionClient, find_session, name_of_session
from muster.controller.bootstrap import Bootstrap, Remedies, RunPlace, need_of
from muster.controller.connections import TcpConnection, captured_signals
from muster.core.controller_config import ControllerConfig, config_as_json
from muster.core.env_forwarding import redact
from muster.core.model import Job, Node, Plan, as_json
from muster.core.plurals import plural
from muster.core.rendezvous import Rendezvous
from muster.errors import InvalidRequest
from muster.launchers import make_plan
from muster.linux.eventloop import EventLoop
from muster.linux.signals import CapturedSignals
from muster.protocol.local_sockets import new_token
from muster.rundir.job_record import Scheduled
from muster.rundir.run import Run
from muster.rundir.session import SessionRecord
from muster.rundir.store import remove_run, writing
from muster.runner.attached import PATIENCE, AttachedRun
from muster.runner.context import RunContext, refuse_stdin, run_record
from muster.runner.handle import RunHandle, Views

if TYPE_CHECKING:
    from muster.code_sync import Tree


_LARGEST_FUNCTION = 8 << 20
"""Bytes of a pickled function that fit into the message to the session."""


class _HeldAgents:
    """The agents of a session on the nodes of a run; an `AgentSource`."""

    remedies, reference = Remedies("", "", ""), "the copy here"
    code: Tree | None = None
    one_run_dir, controller_offset = False, 0.0

    def __init__(self, session: SessionRecord, plan: Plan) -> None:
        self.own_clock = plan.job.transport == "local"
        self._nodes = session.config.nodes[: len(plan.nodes)]
        self._homes = [str(told.get("home", "")) for told in session.facts]
        self.links = [
            TcpConnection(number, node.host or plan.hosts[number], node.clock_offset, told)
            for number, (node, told) in enumerate(zip(self._nodes, session.facts))
        ]

    def come(self, need: Any, run_dir: str) -> None:
        """Do nothing: they are there."""

    def measure_clocks(self) -> None:
        """Do nothing: their clocks are known."""

    def routes(self, addresses: Sequence[str]) -> Any:
        """Fail: the routes are known."""
        raise NotImplementedError

    def differing(self, code: Tree) -> Mapping[str, Sequence[str]]:
        """Return nothing: it is not asked."""
        return {}

    def code_remedy(self) -> str:
        """Return nothing."""
        return ""

    def run_dirs(self, run_dir: str, run_id: str) -> Sequence[tuple[str, bool]]:
        """Return for each node its run directory, and whether it is that of node 0: as for the session."""
        first = run_dir if self.links[0].facts.get("shared") else f"{self._homes[0]}/runs/{run_id}"
        return [
            (first if node.shared else f"{home}/runs/{run_id}", node.shared)
            for node, home in zip(self._nodes, self._homes)
        ]


def start(context: RunContext) -> RunHandle:
    """Start a run on a session. Raises `MusterError`; everything started so far is cleaned up then."""
    refuse_stdin(context)
    options = context.options
    held, record, known = context.session or find_session(context.store, str(options.on))
    job = context.asked.job._replace(lease=options.lease, session=held.id)
    nodes = _with_threads(known.nodes, record, context.asked.threads_chosen)
    plan = make_plan(job, nodes, context.run_id)
    run = context.new_directory(marked=True)
    resources: ExitStack[None] = ExitStack()
    with resources:
        loop = resources.enter_context(EventLoop())
        foreground = context.foreground
        signals = resources.enter_context(captured_signals(loop, job.passes, job.quits, foreground.signals))
        signals.handle(_interrupted)
        client = SessionClient(loop, held)
        try:
            context.make_copy()
            if options.sync and job.transport == "ssh":
                plan = plan._replace(job=_send_code(context, loop, signals, run, plan))
            views = Views(context.viewer(plan, context.run_id, run.operand), context.warn)
            link = client.begin(_order(context, run, record, known, plan))
        except BaseException:
            client.close()
            remote.forget_way(run)
            remove_run(context.store, run)
            raise
        if options.detach:
            from muster.runner.detached import DetachedRun

            client.close()
            name = (options.name or run.operand) if run.operand == run.id else run.operand
            context.progress(f"starting {plural(plan.world_size, 'rank')} on {name_of_session(held)}")
            context.progress(f"follow it: muster attach {name}; end it: muster kill {name}")
            return DetachedRun(run)
        shared = bool(record.facts[0].get("shared"))
        attached = AttachedClient(
            loop,
            signals,
            plan.nodes[0].host.name,
            run.operand,
            lambda: remote.connect(run),
            lambda made, name: views,
            owner=True,
            patience=job.lease + PATIENCE,
            keep=None if shared else run,
            lives=lambda: not shared or run.outcome is None,  # the end of a job ends the connection, too
            view=views,
            files=lambda: run if sync_files(run) else None,
            stdin=foreground.stdin,
        )
        return AttachedRun(run, views, link, attached, resources.pop_all())


def _with_threads(nodes: Sequence[Node], session: SessionRecord, chosen: bool) -> tuple[Node, ...]:
    """Return the nodes with the OpenMP threads of this run; 0 if the user has `chosen` them, not the session."""
    found = []
    for node in nodes:
        cores = int(session.facts[node.number]["cores"])
        threads = 0 if chosen else max(1, cores // max(1, len(node.ranks)))
        found.append(node._replace(host=node.host._replace(threads=threads)))
    return tuple(found)


def _interrupted(numbers: Sequence[int]) -> None:
    from muster.controller.started_agents import raise_interrupted

    raise_interrupted(numbers)


def _order(context: RunContext, run: Run, session: SessionRecord, known: Plan, plan: Plan) -> dict[str, Any]:
    """Return what the session's controller needs to start this run; write job.json and plan.json."""
    job, owned = plan.job, not context.options.detach
    agents = _HeldAgents(session, known)
    bootstrap = Bootstrap(agents, need_of(job))
    late = tuple(node.late for node in session.config.nodes[: len(plan.nodes)])
    where = RunPlace(run.id, str(run.path), new_token())
    reads = owned and context.foreground.stdin is not None
    meeting = Rendezvous(session.config.address, 0, late)
    config, parts = bootstrap.configure(plan, where, meeting, context.began, owned=owned, reads=reads)
    record = _record(context, run, session, config, plan)
    shown = redact(as_json(plan))
    with writing(run.path):
        remote.remember_way(run, remote.way_of(job))
        run.write("job.json", record)
        run.write("plan.json", shown)
    # a local session had its lines of --setup run before: their effects are in its own environment
    # nodes that do not see this run directory
    lacks = [not told.get("shared") for told in session.facts[: len(plan.nodes)]]
    function = context.function if any(lacks) else b""
    if len(function) > _LARGEST_FUNCTION:
        raise InvalidRequest(
            f"the function and its arguments have {len(function) >> 20} MB: hosts that do not share the run directory "
            f"get at most {_LARGEST_FUNCTION >> 20} MB on a session",
            "pass the path of a file, or run it without `on`",
        )
    inherited = dict(context.env) if job.transport == "local" and not job.setup else None
    return {
        "run_id": run.id,
        "config": config_as_json(config),
        "parts": parts,
        "files": {"job.json": record, "plan.json": shown},
        "script": _script_of(job),
        "function": function.decode("latin-1"),
        "lacks": lacks,
        "secret": secrets.token_hex(32),
        "lease": job.lease,
        "age": time.monotonic() - context.began,
        "wall": time.time(),
        "inherited": inherited,
        "umask": _umask() if inherited is not None else None,
    }


def _send_code(context: RunContext, loop: EventLoop, signals: CapturedSignals, run: Run, plan: Plan) -> Job:
    """Send the code to the hosts, as a run without a session does; return the job that runs it there.

    Agents are started for it, and end again: those of the session cannot compare files.
    """
    from muster import code_sync  # imported late, as all of this: other runs need none of it
    from muster.controller.started_agents import StartedAgents
    from muster.runner.hosts import send_code
    from muster.transports.target import target_of

    context = context.with_job(code_sync.real(plan.job))
    job = context.asked.job
    targets = [target_of(job, node.host) for node in plan.nodes]
    agents = StartedAgents(loop, signals, need_of(job), targets, context.env, context.progress)
    try:
        agents.come(need_of(job), str(run.path))
        return send_code(agents, context, run.path.parent).job
    finally:
        agents.abort()
        signals.handle(_interrupted)


def _umask() -> int | None:
    """Return the umask of this process, without changing it for a moment as os.umask does."""
    with open("/proc/self/status") as file:
        found = [line.split()[1] for line in file if line.startswith("Umask:")]
    return int(found[0], 8) if found else None


def _script_of(job: Job) -> dict[str, str]:
    """Return what must be the same on the hosts as here; empty on this machine."""
    path = job.program.path
    if job.transport == "local" or not path:
        return {}
    full = os.path.join(job.cwd, path)
    return {"path": full, "digest": facts.file_digest(full)}


def _record(
    context: RunContext, run: Run, session: SessionRecord, config: ControllerConfig, plan: Plan
) -> dict[str, Any]:
    first, allocation = session.facts[0], plan.job.allocation
    # the job is that of the session, and does not end with the run
    job = Scheduled(plan.job.scheduler, allocation, allocated=True)._asdict() if allocation else None
    return run_record(
        plan.job,
        plan.world_size,
        run.id,
        context.argv,
        host=plan.nodes[0].host.name if job else first["host"],
        boot="" if job else first["boot"],
        pid=0,
        pid_started="",
        served=as_json(plan.nodes[0].host),
        there=config.nodes[0].run_dir,
        shared=first["shared"],
        **({"scheduler": job} if job else {}),
    )
