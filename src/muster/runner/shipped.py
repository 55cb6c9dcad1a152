"""A run with `--ship-env`: its hosts first get the environment, and then run with it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from muster import environments
from muster.config.nodes import hosts_to_reach
from muster.controller.bootstrap import Need
from muster.core.plurals import plural
from muster.environments import ENV
from muster.linux.eventloop import EventLoop
from muster.linux.shell import join
from muster.linux.signals import CapturedSignals
from muster.transports.target import Target, target_of
from muster.ui.formatting import size_in_words

if TYPE_CHECKING:
    from muster.config.options import RunOptions
    from muster.config.resolve import JobRequest
    from muster.runner.context import RunContext


def records(context: RunContext) -> str:
    """Return the directory for what is known of environments."""
    return str(context.store.root / "environments")


def with_environment(context: RunContext, loop: EventLoop, signals: CapturedSignals, run_dir: str) -> RunContext:
    """Send the environment to the hosts, and return the context of the run with the interpreters there.

    With roles, each environment goes to the hosts of the roles that have its interpreter. Raises `MusterError`; the
    agents that receive it have ended then, and also after success.
    """
    asked = context.asked
    if not asked.roles:
        (there,) = _sent(context, [asked], loop, signals, run_dir)
        return context._replace(asked=there)
    members = [role.asked for role in asked.roles]
    for python in dict.fromkeys(member.job.python for member in members):
        own = [index for index, member in enumerate(members) if member.job.python == python]
        for index, there in zip(own, _sent(context, [members[index] for index in own], loop, signals, run_dir)):
            members[index] = there
    roles = tuple(role._replace(asked=there) for role, there in zip(asked.roles, members))
    return context._replace(asked=asked._replace(job=members[0].job, pythons=members[0].pythons, roles=roles))


def _sent(
    context: RunContext, members: Sequence[JobRequest], loop: EventLoop, signals: CapturedSignals, run_dir: str
) -> list[JobRequest]:
    """Send the environment of these roles, which have the same interpreter here; return their requests with those on
    the hosts."""
    from muster.code_sync import tree_root
    from muster.controller.env_shipping import job_there, ship_by
    from muster.controller.started_agents import StartedAgents

    options, job = context.options, members[0].job
    found = environments.find(job.python)
    bases = {host: path for member in members for host, path in member.pythons.items()}
    targets: dict[str, Target] = {}
    for member in members:
        for host in hosts_to_reach(member):
            target = target_of(member.job, host)
            named = bases.get(host.name, "")
            setup = target.setup if named else (*target.setup, usual_python(found))
            own = target._replace(python=named or "python3", keep_python=bool(named), setup=setup)
            targets.setdefault(host.name, own)  # a host may have several roles
    synced = tree_root(job.cwd) if options.sync else ""
    agents = StartedAgents(loop, signals, Need("/"), list(targets.values()), context.env, context.progress)
    agents.spares = job.spare_nodes
    sent = ship_by(agents, run_dir, found, options.env_dir or "", bases, records(context), synced)
    there = []
    for member in members:
        pythons = {host.name: sent.pythons[host.name] for host in member.hosts if host.name in sent.pythons}
        own_job = job_there(member.job, found, pythons)
        other = {host: path for host, path in pythons.items() if path != own_job.python}
        there.append(member._replace(job=own_job, pythons=other))
    return there


def usual_python(found: environments.Environment) -> str:
    """Return the shell line that chooses the Python for the agents that receive an environment.

    The one that the environment needs is new enough for agents; `python3` of an older system may not be.
    """
    names = join([*([found.base] if found.base else []), f"python{found.version}"])
    return f'for each in {names}; do command -v "$each" >/dev/null && python=$each && break; done; :'


def planned(asked: JobRequest, options: RunOptions, store: str) -> tuple[JobRequest, list[str]]:
    """Return the request as it will be on the hosts, and a line about each environment. Raises `InvalidRequest`."""
    root = options.env_dir or "/var/tmp/muster-envs-$UID"
    lines, there = [], dict[str, str]()
    for python in dict.fromkeys(job.python for job in asked.jobs):
        found = environments.read(environments.find(python), os.path.join(store, "environments"))
        there[python] = f"{root}/{found.address}/{ENV}/{found.python}"
        lines.append(
            f"{found.in_words} (Python {found.version}, {plural(len(found.entries), 'file')}, "
            f"{size_in_words(found.size)}) to {root}/{found.address} on each host"
        )
    jobs = [job._replace(python=there[job.python], python_source="sent to the hosts") for job in asked.jobs]
    asked = asked.with_jobs(jobs)._replace(pythons={})
    roles = (role._replace(asked=role.asked._replace(pythons={})) for role in asked.roles)
    return asked._replace(roles=tuple(roles)), lines
