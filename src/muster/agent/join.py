"""An agent that a scheduler starts on each node, which reads the controller's address in the run directory."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

from muster.agent import code_tree, facts
from muster.agent.agent import Agent
from muster.agent.bootstrap import hook_sources
from muster.linux import processes
from muster.linux.eventloop import EventLoop
from muster.protocol.channel import Channel
from muster.protocol.handshake import Terms

if TYPE_CHECKING:
    from muster.agent.held import Held

RENDEZVOUS = "rendezvous.json"
"""Name of the file with the controller's address and the secret of this attempt, readable only by the user."""

_WAY = 10.0
"""Seconds within which a connection to node 0 must be made."""


def step(words: list[str]) -> int:
    """Run the agent of this task's node; the arguments are the run directory."""
    (run_dir,) = words
    with open(os.path.join(run_dir, RENDEZVOUS)) as file:
        where = json.load(file)
    task = where["task"]
    for name in [name for name in os.environ if re.fullmatch(task["unset"], name)]:
        del os.environ[name]
    agent = Agent(EventLoop(), hook_sources())
    agent.wire, agent.lease, agent.scheduled = Channel(keeps=True), where["lease"], True
    agent.stops.add(signal.Signals[f"SIG{task['stop']}"])
    agent.start_holding = _hold
    agent.begin()
    processes.hear_signals()
    node = where["hosts"].index(os.environ[task["host"]])
    cwd, script = where["own"][node] if where.get("own") else (where["cwd"], where["script"])
    ways = facts.probe_addresses(where["addresses"], where["port"], _WAY)
    good = [address for address in where["addresses"] if "error" not in ways[address]]
    agent.introduction = {
        **facts.collect_facts(cwd, script, run_dir),
        "name": os.environ[task["host"]],
        "folder": code_tree.place(cwd),
        "digests": _compare(where["code"], os.path.join(run_dir, code_tree.LIST), where["code_place"]),
        "step": os.environ.get(task["step"], "0"),
        "ways": ways,
        "python": ".".join(map(str, sys.version_info[:3])),
        "executable": sys.executable,
    }
    terms = Terms(where["secret"], where["run"])
    try:
        agent.dial((good or where["addresses"])[0], where["port"], terms, node)
        agent.run()
    except BaseException:
        agent.fail()
    return 0


def _hold(agent: Agent) -> Held:
    """Make an agent that of a session."""
    from muster.agent.held import Held  # imported late: only sessions need it

    return Held(agent)


def _compare(root: str, listed: str, place: list[Any]) -> dict[str, str]:
    """Return digests of the files below `root` that differ from the list, if there is one."""
    if not root:
        return {}
    with open(listed, "rb") as file:
        return code_tree.compare(root, file.read(), place)
