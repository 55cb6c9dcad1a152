"""An agent that a scheduler starts on each node: it reads in the run directory where its supervisor is, and dials."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

from muster.agent import meet, system, tree
from muster.agent.agent import Agent
from muster.agent.boot import text_of
from muster.agent.eventloop import EventLoop
from muster.agent.handshake import Terms
from muster.agent.wire import Wire

RENDEZVOUS = "rendezvous.json"
"""Where the supervisor is and the secret of this attempt; only the person may read it."""

_WAY = 10.0
"""Seconds in which a connection to node 0 must be made."""


def step(words: list[str]) -> int:
    """The program: `step RUN_DIR`. Be the agent of the node on which this task runs."""
    (run_dir,) = words
    with open(os.path.join(run_dir, RENDEZVOUS)) as file:
        where = json.load(file)
    task = where["task"]
    for name in [name for name in os.environ if re.fullmatch(task["unset"], name)]:
        del os.environ[name]
    agent = Agent(EventLoop(), text_of("hook"))
    agent.wire, agent.lease, agent.scheduled = Wire(keeps=True), where["lease"], True
    agent.begin()
    system.hear_signals()
    ways = meet.knock(where["addresses"], where["port"], _WAY)
    good = [address for address in where["addresses"] if "error" not in ways[address]]
    agent.introduction = {
        **meet.tell(where["cwd"], where["script"], run_dir),
        "name": os.environ[task["host"]],
        "folder": tree.place(where["cwd"]),
        "digests": _compare(where["code"], os.path.join(run_dir, tree.LIST), where["code_place"]),
        "step": os.environ.get(task["step"], "0"),
        "ways": ways,
        "python": ".".join(map(str, sys.version_info[:3])),
        "executable": sys.executable,
    }
    node = where["hosts"].index(agent.introduction["name"])
    terms = Terms(where["secret"], where["run"])
    try:
        agent.dial((good or where["addresses"])[0], where["port"], terms, node)
        agent.run()
    except BaseException:
        agent.fail()
    return 0


def _compare(root: str, listed: str, place: list[Any]) -> dict[str, str]:
    """Digests of the files below `root` that are not those of the list, if there is something to compare."""
    if not root:
        return {}
    with open(listed, "rb") as file:
        return tree.compare(root, file.read(), place)
