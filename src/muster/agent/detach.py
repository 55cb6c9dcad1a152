"""Detaching: an agent leaves the connection that started it, so that its run can outlive the command that started it.

It forks: the child is the agent from then on. It starts the controller (on node 0), or connects to the one on node 0.
The parent relays between its stdin and stdout and the controller.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Mapping
from typing import Any

from muster.agent import proxy
from muster.agent.agent import Agent
from muster.agent.controller_process import ARCHIVE, ControllerProcess
from muster.agent.guard import guard
from muster.linux import processes
from muster.linux.eventloop import EventLoop
from muster.protocol.channel import Channel
from muster.protocol.frames import encode_frame
from muster.protocol.handshake import Terms
from muster.protocol.local_sockets import SUPERVISOR, Sockets


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
            link = _sockets(where["configuration"]).connect(SUPERVISOR, os.getuid())
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
        _settle(moved, payload, **where)
    except BaseException as error:
        text = processes.reason_at(error) if isinstance(error, OSError) else traceback.format_exc(limit=-1)
        os.write(tell, json.dumps([text, processes.met_limit(error)]).encode())
        os._exit(1)
    os.close(tell)
    return moved


def _sockets(configuration: Mapping[str, Any]) -> Sockets:
    return Sockets(configuration["run_id"], configuration["token"])


def _settle(
    agent: Agent,
    archive: bytes,
    configuration: dict[str, Any],
    secret: str,
    lease: float,
    address: str,
    port: int,
    files: dict[str, str],
    stays: bool,
) -> None:
    """Write the files of the run, prepare to start ranks, and connect to the controller.

    `port` is 0 on the controller's own node.
    """
    agent.lease = lease
    run_dir = configuration["run_dir"]
    os.umask(0o077)
    processes.make_private(run_dir)
    for name, data in {**{name: text.encode() for name, text in files.items()}, ARCHIVE: archive}.items():
        if data:
            with open(os.path.join(run_dir, name), "wb") as file:
                file.write(data)
    if port:
        if "parts" in configuration:
            agent.on_stand_by(b"", **configuration)
        else:
            agent.on_configure(b"", **configuration)
        agent.dial(address, port, Terms(secret, configuration["run_id"]), configuration["node"])
    else:
        port_here = agent.survey.probe_port
        door = port_here.fileno() if port_here is not None else -1
        agent.controller = keeper = ControllerProcess(
            agent.loop,
            run_dir,
            _sockets(configuration),
            door,
            secret,
            agent.supervisor_started,
            agent.connected,
            agent.lost,
            bool(configuration.get("trace")),
        )
        agent.on_configure(b"", **configuration)
        keeper.start()
