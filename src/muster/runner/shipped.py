"""A run with `--ship-env`: its hosts first get the environment, and then run with it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from muster import environments
from muster.config.nodes import hosts_to_reach
from muster.controller.bootstrap import Need
from muster.core.model import Job
from muster.core.plurals import plural
from muster.environments import ENV
from muster.linux.eventloop import EventLoop
from muster.linux.shell import join
from muster.linux.signals import CapturedSignals
from muster.transports.target import target_of
from muster.ui.formatting import size_in_words

if TYPE_CHECKING:
    from muster.config.options import RunOptions
    from muster.runner.context import RunContext


def records(context: RunContext) -> str:
    """Return the directory for what is known of environments."""
    return str(context.store.root / "environments")


def with_environment(context: RunContext, loop: EventLoop, signals: CapturedSignals, run_dir: str) -> RunContext:
    """Send the environment to the hosts, and return the context of the run with the interpreters there.

    Raises `MusterError`; the agents that receive it have ended then, and also after success.
    """
    from muster.code_sync import tree_root
    from muster.controller.env_shipping import job_there, ship
    from muster.controller.started_agents import StartedAgents

    options, asked, job = context.options, context.asked, context.asked.job
    found = environments.find(job.python)
    targets = []
    for host in hosts_to_reach(asked):
        target = target_of(job, host)
        named = asked.pythons.get(host.name, "")
        setup = target.setup if named else (*target.setup, usual_python(found))
        targets.append(target._replace(python=named or "python3", keep_python=bool(named), setup=setup))
    agents = StartedAgents(loop, signals, Need("/"), targets, context.env, context.progress)
    agents.spares = job.spare_nodes
    try:
        agents.come(Need("/"), run_dir)
        if agents.failed:  # as many as there are spares: the start of the run tells why they are left out
            agents.arrange([link.node for link in agents.living])
        synced = tree_root(job.cwd) if options.sync else ""
        sent = ship(agents, found, options.env_dir or "", asked.pythons, records(context), synced)
    finally:
        agents.abort()
    pythons = dict(sent.pythons)
    job = job_there(job, found, pythons)
    other = {host: path for host, path in pythons.items() if path != job.python}
    return context._replace(asked=asked._replace(job=job, pythons=other))


def usual_python(found: environments.Environment) -> str:
    """Return the shell line that chooses the Python for the agents that receive an environment.

    The one that the environment needs is new enough for agents; `python3` of an older system may not be.
    """
    names = join([*([found.base] if found.base else []), f"python{found.version}"])
    return f'for each in {names}; do command -v "$each" >/dev/null && python=$each && break; done; :'


def planned(job: Job, options: RunOptions, store: str) -> tuple[Job, str]:
    """Return the job as it will be on the hosts, and a line about the environment. Raises `InvalidRequest`."""
    found = environments.read(environments.find(job.python), os.path.join(store, "environments"))
    root = options.env_dir or "/var/tmp/muster-envs-$UID"
    path = f"{root}/{found.address}/{ENV}"
    line = (
        f"{found.in_words} (Python {found.version}, {plural(len(found.entries), 'file')}, "
        f"{size_in_words(found.size)}) to {root}/{found.address} on each host"
    )
    return job._replace(python=f"{path}/{found.python}", python_source="sent to the hosts"), line
