"""An agent takes its part of a run: its files, its connection to the controller, and what its node is to start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from muster.agent.controller_process import ARCHIVE, ControllerProcess
from muster.linux import processes
from muster.linux.files import replace_file
from muster.protocol.handshake import Terms
from muster.protocol.local_sockets import Sockets

if TYPE_CHECKING:
    from muster.agent.agent import Agent


def sockets_of(configuration: Mapping[str, Any]) -> Sockets:
    """Return the sockets of the run that this configures."""
    return Sockets(configuration["run_id"], configuration["token"])


def settle(
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
    write_files(run_dir, archive, files)
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
            sockets_of(configuration),
            door,
            secret,
            agent.supervisor_started,
            agent.connected,
            agent.lost,
            bool(configuration.get("trace")),
            agent.hosting.standby if agent.hosting is not None else None,
        )
        agent.on_configure(b"", **configuration)
        keeper.start()


def write_files(run_dir: str, archive: bytes, files: Mapping[str, str]) -> None:
    """Write these files to the run directory, which may be the one in which the command has written the same."""
    processes.make_private(run_dir)
    for name, data in {**{name: text.encode("latin-1") for name, text in files.items()}, ARCHIVE: archive}.items():
        if data:
            replace_file(os.path.join(run_dir, name), data)
