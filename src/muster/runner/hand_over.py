"""What follows once the hosts of a run have answered: the agents get their parts, and this process becomes a client.

Its own module: it is imported while ssh logs in, and so are the modules that only it needs.
"""

from __future__ import annotations

import json
import secrets
import sys
from contextlib import ExitStack

from muster import bundle
from muster.client import remote
from muster.client.attach import AttachedClient
from muster.client.client import sync_files
from muster.config.sessions import options_of_session
from muster.controller.bootstrap import Bootstrap, RunPlace
from muster.controller.started_agents import StartedAgents
from muster.core.controller_config import RECORD, config_as_json
from muster.core.env_forwarding import redact
from muster.core.model import Plan, as_json
from muster.core.results import Replaced
from muster.core.roles import roles_record
from muster.linux.eventloop import EventLoop
from muster.linux.signals import CapturedSignals
from muster.protocol.local_sockets import new_token
from muster.rundir.run import FUNCTION, Run
from muster.rundir.session import write_session
from muster.rundir.store import writing
from muster.runner.attached import PATIENCE, AttachedRun
from muster.runner.context import RunContext, run_record
from muster.runner.handle import Views


def hand_over(
    context: RunContext,
    gathering: StartedAgents,
    bootstrap: Bootstrap,
    run: Run,
    plan: Plan,
    replaced: tuple[Replaced, ...],
    archive: bytes,
) -> None:
    """Find the rendezvous address, and give each agent its part of the plan; the controller starts on node 0."""
    owned, job = not context.options.detach, plan.job
    meeting = bootstrap.find_rendezvous()
    where = RunPlace(run.id, str(run.path), new_token())
    reads = owned and context.foreground.stdin is not None
    config, parts = bootstrap.configure(
        plan, where, meeting, context.began, owned=owned, reads=reads, replaced=replaced
    )
    first = gathering.links[0]
    record = run_record(
        job,
        plan.world_size,
        run.id,
        context.argv,
        host=first.facts["host"],
        boot=first.facts["boot"],
        pid=0,
        pid_started="",
        served=as_json(plan.nodes[0].host),
        there=config.nodes[0].run_dir,
        shared=first.facts["shared"],
        **roles_record(plan.roles),
    )
    files = {"job.json": record, "plan.json": redact(as_json(plan)), RECORD: config_as_json(config)}
    with writing(run.path):
        remote.remember_way(run, remote.way_of(job))
        run.write("job.json", record)
        run.write("plan.json", files["plan.json"])
        if job.hold is not None:
            write_session(run, options_of_session(context.options), config, [link.facts for link in gathering.links])
    if context.function:
        own = {link.node: node.run_dir for link, node in zip(gathering.links, config.nodes) if not link.facts["shared"]}
        gathering.bring(FUNCTION, context.function, own)
    gathering.detach_agents(
        parts,
        archive if first.facts["python"].startswith(_OURS) else bundle.build(),
        {name: json.dumps(data, indent=1) + "\n" for name, data in files.items()},
        secret=secrets.token_hex(32),
        lease=job.lease,
        address=meeting.address,
        port=meeting.port,
        stays=owned,
    )


_OURS = "{}.{}.".format(*sys.version_info)
"""The versions of Python whose bytecode this one has. It spares the controller 0.2 s of CPU time at its start."""


def attached(
    context: RunContext,
    gathering: StartedAgents,
    run: Run,
    views: Views,
    loop: EventLoop,
    signals: CapturedSignals,
    resources: ExitStack[None],
) -> AttachedRun:
    """Return the run as one that ends with this process, over the connection to its controller on node 0."""
    first = gathering.links[0]
    client = AttachedClient(
        loop,
        signals,
        first.host,
        run.operand,
        lambda: remote.connect(run),
        lambda made, name: views,
        owner=True,
        patience=context.asked.job.lease + PATIENCE,
        keep=None if first.facts["shared"] else run,
        view=views,
        files=lambda: run if sync_files(run) else None,
        stdin=context.foreground.stdin,
    )
    return AttachedRun(run, views, gathering.take_connection(), client, resources)
