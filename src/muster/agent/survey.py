"""Questions to a node before a run is planned: facts, files, clock, and routes to other nodes.

Modules that only some runs need are imported only on use.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from muster.linux import processes
from muster.protocol.channel import Emit

if TYPE_CHECKING:
    from muster.agent.env_transfer import EnvTransfer
    from muster.linux.eventloop import EventLoop


class Survey:
    """Answers questions about this machine."""

    def __init__(self, emit: Emit, loop: EventLoop) -> None:
        self.emit, self.loop = emit, loop
        self.transfer: EnvTransfer | None = None
        """The environment that comes to this host."""
        self.probe_port: socket.socket | None = None
        """Listening socket to which other nodes try to connect."""

    def on_get_facts(self, payload: bytes, cwd: str, script: str, run_dir: str) -> None:
        """Send the facts about this machine that planning needs."""
        from muster.agent import facts

        self.emit("facts", **facts.collect_facts(cwd, script, run_dir))

    def on_write_marker(self, payload: bytes, run_dir: str) -> None:
        """Create a run directory here that other nodes may share, with a marker file."""
        from muster.agent import facts

        facts.write_marker(run_dir)
        self.emit("marker_written")

    def on_check_marker(self, payload: bytes, run_dir: str) -> None:
        """Report whether the run directory here is the one with the marker."""
        from muster.agent import facts

        self.emit("marker_checked", shares=facts.sees_marker(run_dir))

    def on_compare(self, payload: bytes, root: str, home: str = "", place: list[Any] | None = None) -> None:
        """Report which files of a directory differ from the other machine's, and which were sent once and are stale."""
        from muster.agent import code_tree

        stale = code_tree.stale(home, root, payload) if home else []
        self.emit("compared", digests=code_tree.compare(root, payload, place), stale=stale)

    def on_remember(self, payload: bytes, root: str, home: str) -> None:
        """Record that these files were sent to this directory."""
        from muster.agent import code_tree

        code_tree.remember(home, root, payload)
        self.emit("remembered")

    def on_bring(self, payload: bytes, run_dir: str, name: str, offset: int) -> None:
        """Write a piece of a file into the run directory, which this node does not share with the sender."""
        try:
            processes.make_private(run_dir)
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (0 if offset else os.O_TRUNC)
            with open(os.open(os.path.join(run_dir, os.path.basename(name)), flags, 0o600), "wb") as file:
                file.seek(offset)
                file.write(payload)
        except OSError as error:
            self.emit("brought", failed=processes.reason_at(error))
        else:
            self.emit("brought", failed="")

    def on_get_env_facts(
        self, payload: bytes, named: str, usual: str, version: str, folder: str, paths: list[str]
    ) -> None:
        """Report what this host has for an environment that is to be sent: a base interpreter, space, environments."""
        from muster.agent import env_transfer

        self.emit("env_facts", **env_transfer.facts(os.environ, named, usual, version, folder, paths))

    def on_open_env(self, payload: bytes, root: str, address: str, base: str, similar: str, secret: str) -> None:
        """Prepare for an environment, unless it is here."""
        from muster.agent import env_store, env_transfer

        try:
            if env_store.touch(root, address):
                self.emit("env_opened", port=0, failed="")
                return
            part = env_store.Part(root, address, base, similar)
            self.transfer = env_transfer.EnvTransfer(self.emit, self.loop.call_soon_threadsafe, part, secret)
        except OSError as error:
            self.emit("env_opened", port=0, failed=processes.reason_at(error))
        else:
            self.emit("env_opened", port=self.transfer.port, failed="")

    def on_fetch_env(self, payload: bytes, addresses: list[str], port: int, patience: float) -> None:
        """Get the environment from another host, which gets it now."""
        failed = "not prepared" if self.transfer is None else self.transfer.fetch(addresses, port, patience)
        self.emit("env_connected", failed=failed)

    def on_env_piece(self, payload: bytes, packed: bool, last: bool) -> None:
        """Take a piece of the environment."""
        if self.transfer is not None:
            self.transfer.take((payload, packed, last))

    def close(self) -> None:
        """Remove what is not complete, because this process exits."""
        if self.transfer is not None:
            self.transfer.close()

    def on_open_probe_port(self, payload: bytes) -> None:
        """Open a port to which the other nodes try to connect."""
        from muster.agent import facts

        self.probe_port = facts.open_probe_port()
        self.emit("probe_port", port=self.probe_port.getsockname()[1])

    def on_probe_routes(self, payload: bytes, addresses: list[str], port: int, patience: float) -> None:
        """Try to connect to node 0."""
        from muster.agent import facts

        self.emit("routes", ways=facts.probe_addresses(addresses, port, patience))

    def on_probe(self, payload: bytes, names: list[str], folders: list[str]) -> None:
        """Run doctor's checks on this machine."""
        from muster.agent.probe import probe

        self.emit("probed", **probe(names, folders))

    def on_clock(self, payload: bytes) -> None:
        """Report this machine's time."""
        self.emit("clock")
