"""A run whose controller is on its node 0: on hosts, or on this machine but detached from this process (`--detach`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from muster.agent.facts import file_digest
from muster.config.nodes import spares_of
from muster.config.resolve import JobRequest
from muster.controller.bootstrap import Bootstrap, Need, need_of
from muster.controller.connections import ProcessConnection, captured_signals
from muster.controller.started_agents import StartedAgents
from muster.core.hostlist import fold_hostlist, fold_reasons
from muster.core.plurals import plural
from muster.core.printable import line as safe
from muster.core.results import Replaced
from muster.core.spares import arrange, unfit_hosts
from muster.errors import InvalidRequest, Unreachable
from muster.linux.eventloop import EventLoop
from muster.rundir.run import Run
from muster.rundir.store import remove_run
from muster.runner.context import RunContext, refuse_stdin
from muster.runner.handle import Views
from muster.runner.roles import Parts, check_ranks, hosts_of, members_of, nodes_here, nodes_there, plan_of
from muster.transports.target import target_of

if TYPE_CHECKING:
    from muster.runner.attached import AttachedRun
    from muster.runner.detached import DetachedRun


def start(context: RunContext) -> AttachedRun | DetachedRun:
    """Start agents on the hosts, make the plan from their facts, and give each agent its part.

    Raises `MusterError`; everything started so far is cleaned up then.
    """
    options, asked = context.options, context.asked
    if options.detach and asked.job.stdin is not None:
        raise InvalidRequest(
            "--stdin cannot be combined with --detach: no terminal to read from", "leave out one of them"
        )
    refuse_stdin(context)
    if options.sync:
        from muster import code_sync

        context = context.with_jobs([code_sync.real(job) for job in asked.jobs])
        asked = context.asked
    here = None if asked.hosts else nodes_here(members_of(context), context.env)
    run = context.new_directory(marked=True)
    resources: ExitStack[None] = ExitStack()
    with resources:
        loop = resources.enter_context(EventLoop())
        job, foreground = asked.job, context.foreground
        signals = resources.enter_context(captured_signals(loop, job.passes, job.quits, foreground.signals))
        if options.ship_env:
            from muster.runner.shipped import with_environment

            try:
                context = with_environment(context, loop, signals, str(run.path))
            except BaseException:
                remove_run(context.store, run)
                raise
            asked = context.asked
            job = asked.job
        reached = hosts_of(members_of(context), here)
        targets = [target_of(own, host) for own, host in reached]
        need = _need_of(asked)
        gathering = StartedAgents(loop, signals, need, targets, context.env, context.progress)
        gathering.spares = job.spare_nodes
        archives: list[bytes] = []
        gathering.meanwhile = lambda: archives.append(_prepare(context))
        bootstrap = Bootstrap(gathering, need)
        try:
            context, nodes, replaced = _reach(context, gathering, bootstrap, run, here)
            plan = plan_of(members_of(context), nodes, context.run_id)
            check_ranks(plan, options)
            if job.spare_nodes:
                plan = plan._replace(spares=spares_of(context.asked))
            views = Views(context.viewer(plan, context.run_id, run.operand), context.warn)
            from muster.runner import hand_over as after

            after.hand_over(context, gathering, bootstrap, run, plan, replaced, archives[0])
        except BaseException:
            from muster.client.remote import forget_way

            gathering.abort()
            forget_way(run)
            remove_run(context.store, run)
            raise
        if options.detach:
            from muster.runner.detached import DetachedRun

            gathering.abort()
            if job.hold is not None:
                return DetachedRun(run)  # `muster hold` tells the rest
            # the ranks start after this, and may still fail to start
            name = (options.name or run.operand) if run.operand == run.id else run.operand
            started = f"starting {plural(plan.world_size, 'rank')}; the controller of the run is on"
            context.progress(f"{started} {plan.nodes[0].host.name}")
            context.progress(f"follow it: muster attach {name}; end it: muster kill {name}")
            return DetachedRun(run)
        return after.attached(context, gathering, run, views, loop, signals, resources.pop_all())


def _prepare(context: RunContext) -> bytes:
    """Do what does not depend on the answers of the hosts, while ssh logs in: nothing else has to be done meanwhile.

    Return the archive of muster for the controller, as for the Python of this process. What is imported here is used
    once the hosts have answered, and to import it before would delay the logins by as much.
    """
    from muster import bundle, code_sync  # noqa: F401
    from muster.diagnostics import preflight  # noqa: F401
    from muster.runner import hand_over  # noqa: F401

    return bundle.kept(context.store.home)


def _reach(
    context: RunContext, gathering: StartedAgents, bootstrap: Bootstrap, run: Run, here: Parts | None
) -> tuple[RunContext, Parts, tuple[Replaced, ...]]:
    """Start the agents, send the code, and run the checks.

    Return the context with the remote job, its nodes by role, and the hosts that were replaced by spares.

    `here`: the nodes on this machine, if no hosts are named.
    """
    options = context.options
    context.make_copy()
    facts = bootstrap.facts(str(run.path))
    from muster import code_sync  # by now `_prepare` has imported it

    replaced: tuple[Replaced, ...] = ()
    if context.asked.job.spare_nodes:
        context, replaced = _choose_hosts(context, gathering)
        facts = bootstrap.told
    bootstrap.check_storage(str(run.path))
    if here is None and options.sync:
        context = context._replace(asked=send_code(gathering, context, run.path.parent))
        bootstrap.need = _need_of(context.asked)
    elif here is None and not options.no_code_check:
        gathering.code = code_sync.sources(context.asked.job, str(run.path.parent))
    bootstrap.check()
    _check_shared_hosts(gathering)
    for finding in bootstrap.findings():
        gathering.say(finding)
    nodes = here if here is not None else nodes_there(members_of(context), facts)
    return context, nodes, replaced


def _check_shared_hosts(gathering: StartedAgents) -> None:
    """Raise `InvalidRequest` for a host with several roles that does not share the run directory.

    Each of its agents would delete the directory of all when it is done.
    """
    names = [link.host for link in gathering.links]
    twice = [link.host for link in gathering.links if names.count(link.host) > 1 and not link.facts["shared"]]
    if twice:
        raise InvalidRequest(
            f"{fold_hostlist(dict.fromkeys(twice))} has several roles, and does not share the run directory",
            "give each role a host of its own, or set --run-dir to a directory that the hosts share",
        )


def _choose_hosts(context: RunContext, gathering: StartedAgents) -> tuple[RunContext, tuple[Replaced, ...]]:
    """Leave out the hosts that cannot be used, and give their places to spares. Raises `Unreachable`."""
    asked, options = context.asked, context.options
    job = asked.job
    own = file_digest(os.path.join(job.cwd, job.program.path)) if job.program.path else ""
    told = {link.host: link.facts for link in gathering.living}
    gpus = {host.name: host.slots for host in asked.hosts}
    unfit = {gathering.targets[number].host: error.message for number, error in gathering.failed.items()}
    unfit.update(unfit_hosts(told, job.program.path, own, gpus, bool(options.sync)))
    hosts, count = [host.name for host in asked.hosts], len(asked.hosts) - job.spare_nodes
    found = arrange(hosts, count, unfit)
    if found is None:
        reasons = fold_reasons(unfit.items())
        raise Unreachable(
            f"{plural(count, 'usable host')} required, {len(hosts) - len(unfit)} found: {reasons}", "name more hosts"
        )
    for left_out in found.replaced:
        gathering.say(f"warning: {left_out.host} left out: {left_out.why}; {left_out.by} takes its place")
    for host, why in found.unused:
        gathering.say(f"warning: spare host {host} left out: {why}")
    gathering.arrange(found.order)
    slots = {left_out.by: asked.hosts[left_out.node].slots for left_out in found.replaced}
    chosen = tuple(asked.hosts[number] for number in found.order)
    chosen = tuple(host._replace(slots=slots.get(host.name, host.slots)) for host in chosen)
    asked = asked._replace(hosts=chosen, job=job._replace(spare_nodes=len(chosen) - count))
    return context._replace(asked=asked), found.replaced


def _need_of(asked: JobRequest) -> Need:
    """Return what the hosts need, before there is a plan; with roles, each what its role needs."""
    return need_of(asked.job, [role.asked.job for role in asked.roles for _ in role.asked.hosts or (None,)])


def send_code(gathering: StartedAgents, context: RunContext, runs_dir: Path) -> JobRequest:
    """Send the code to hosts where it is different or missing; return the request for what runs there.

    Raises `InvalidRequest`, `Unreachable`.
    """
    from muster import code_sync

    asked = context.asked
    links = _links_of(gathering, asked)
    if asked.snapshot is not None:
        original, copy = asked.snapshot
        found = code_sync.everything(str(copy))
        jobs = list(asked.jobs)
        for index, (job, own) in enumerate(zip(jobs, links)):
            if not all(link.facts["cwd"] for link in own):
                jobs[index] = job._replace(cwd=code_sync.moved(job.cwd, original.root, str(copy)))
                os.makedirs(jobs[index].cwd, exist_ok=True)
        asked = asked.with_jobs(jobs)
    else:
        found = code_sync.tree_of(asked.jobs, str(runs_dir))
    code_sync.guard(found, context.code_limit, "--sync")
    wanted = gathering.compare(found, sent=True)
    for link in gathering.links:
        if not link.facts["cwd"]:
            wanted.setdefault(gathering.targets[link.node], [])
    if wanted:
        for note in found.notes:
            gathering.say(note)
        code_sync.send([job.cwd for job in asked.jobs], found, wanted, gathering.say, context.env)
        other = gathering.compare(found, sent=True)
        if other:
            target, names = next(iter(other.items()))
            raise InvalidRequest(
                f"{safe(names[0])} on {target.host} changed while the code was copied", "start the run again"
            )
        gathering.remember(found, wanted)
    gathering.refresh_facts(_need_of(asked))
    for job, own in zip(asked.jobs, links):
        absent = [link.host for link in own if job.program.path and not link.facts["script"]]
        if absent:  # the script is not in the directory that was sent
            raise InvalidRequest(
                f"script {job.program.path} not found on {fold_hostlist(absent)}: --sync copies only {found.root}",
                "start the run from the directory of the script",
            )
    return asked


def _links_of(gathering: StartedAgents, asked: JobRequest) -> list[Sequence[ProcessConnection]]:
    """Return the agents of each role, or all for the one program."""
    found: list[Sequence[ProcessConnection]] = []
    left: Sequence[ProcessConnection] = gathering.links
    for role in asked.roles:
        found.append(left[: len(role.asked.hosts)])
        left = left[len(role.asked.hosts) :]
    return found or [left]
