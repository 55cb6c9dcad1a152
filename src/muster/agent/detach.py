"""Detaching: an agent leaves the connection that started it, so that its run can outlive the command that started it.

It forks: the child is the agent from then on. It starts the controller (on node 0), or connects to the one on node 0.
The parent relays between its stdin and stdout and the controller.
"""

from __future__ import annotations

import json
import os
import traceback
from typing import TYPE_CHECKING

from muster.agent import proxy
from muster.agent.agent import Agent
from muster.agent.controller_process import ARCHIVE
from muster.agent.guard import guard
from muster.agent.settle import settle, sockets_of
from muster.linux import processes
from muster.linux.eventloop import EventLoop
from muster.protocol.channel import Channel
from muster.protocol.frames import encode_frame
from muster.protocol.local_sockets import SUPERVISOR

if TYPE_CHECKING:
    from muster.agent.held import Held


def move(agent: Agent) -> Agent:
    """Continue as a daemon; the parent does not return."""
    assert agent.move is not None
    where, payload = agent.move
    told, tell = os.pipe()
    if processes.fork():
        os.close(tell)
        with open(told, "rb") as pipe:
            failed = pipe.read()
        text, limit = json.loads(failed) if failed else ("", False)
        os.set_blocking(1, True)
        proxy.write_all(1, encode_frame("detached", failed=text, limit=limit))
        if where["stays"] and not failed:
            link = sockets_of(where["configuration"]).connect(SUPERVISOR, os.getuid())
            if link is not None:
                proxy.carry(link)
        os._exit(0)
    os.close(told)
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        pid = processes.fork()
        if pid:
            # the controller, which runs from the archive, survives: it reports how the run ended
            guard(pid, os.path.join(where["configuration"]["run_dir"], ARCHIVE), after_success=False)
        os.setsid()
        moved = Agent(EventLoop(), agent.hook)
        moved.wire = Channel(keeps=True)
        moved.survey.probe_port = agent.survey.probe_port
        moved.begin()
        moved.start_holding = _hold
        settle(moved, payload, **where)
    except BaseException as error:
        text = processes.reason_at(error) if isinstance(error, OSError) else traceback.format_exc(limit=-1)
        os.write(tell, json.dumps([text, processes.met_limit(error)]).encode())
        os._exit(1)
    os.close(tell)
    return moved


def _hold(agent: Agent) -> Held:
    """Make an agent that of a session."""
    from muster.agent.held import Held  # imported late: only sessions need it

    return Held(agent)
