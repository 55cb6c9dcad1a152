"""The preloaded interpreter of a session: it has imported torch, and forks a fork server for each run."""

from __future__ import annotations

import os
import sys

from .any_script import become_environment, become_program, show_as
from .fitness import namesakes
from .fork_server import ForkServer, write_to
from .messages import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class Nursery(ForkServer):
    """An interpreter with torch that becomes the fork server of a run in a fork of itself.

    In that fork `conf`, environment, working directory and command line are those of the run; from there on it is a
    fork server as any other.
    """

    def __init__(self, conf: dict[str, Any]) -> None:
        super().__init__(conf)
        self.threads = os.environ.get("OMP_NUM_THREADS")
        self.serves_run = False
        """True in the fork that is the fork server of a run."""

    def report(self, shadowed: list[str]) -> None:
        """Report the imports, with what tells whether they are still those that a new interpreter would make."""
        files = []
        for module in self.ahead.modules.values():
            path = getattr(module, "__file__", None) or ""
            if path.endswith(".py") and "-packages" + os.sep not in path:
                files.append(path)
        path = [os.path.abspath(entry) for entry in sys.path if entry]
        tell(self.fd, op="preloaded", **self.told, namesakes=shadowed, times=self.times, path=path, files=files)

    def serve(self) -> None:
        """Fork on request. Returns only in a rank; exits with the agent."""
        super().serve()
        if self.serves_run:
            self.leaving = False
            super().serve()

    def child(self, middle: int, gate: int, child: Mapping[str, Any], passed: list[int]) -> None:
        """Turn a fork of this process into the fork server of a run; a fork of that into a rank, or the store."""
        if self.serves_run:
            super().child(middle, gate, child, passed)
            return
        try:
            os.close(self.fd)
            self.adopt_by_agent(middle, gate, child)
            self.fd = passed[0]
            self.become_fork_server(*self.await_run())
        except BaseException as error:
            os.write(2, (f"muster: error: cannot set up the fork server: {error!r}\n").encode())
            os._exit(125)

    def become_rank(self, child: Mapping[str, Any]) -> None:
        """Undo what distinguishes this process from a new one, among that another number of threads."""
        super().become_rank(child)
        assert self.ahead.env is not None
        if self.threads is not None:
            self.ahead.env["OMP_NUM_THREADS"] = self.threads  # torch has been imported with it

    def await_run(self) -> tuple[dict[str, Any], list[int]]:
        """Return what the agent says about the run, with its files; exit if there will be none."""
        import json
        import socket

        agent = socket.socket(fileno=os.dup(self.fd))
        data = b""
        fds: list[int] = []
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
            more, passed, _, _ = socket.recv_fds(agent, 1 << 16, 16)
            if not more:
                os._exit(0)
            data, fds = data + more, [*fds, *passed]
        agent.close()
        return json.loads(data[4:])["children"]["run"], fds

    def become_fork_server(self, child: Mapping[str, Any], fds: list[int]) -> None:
        """Take over the command line and the environment of a run, and report as a new fork server does."""
        self.times = {"python": self.clock()}
        self.conf["stdin"] = fds.pop(0) if child["stdin"] else None
        self.ahead.map_asked((fds.pop(0), child["asked"]) if child["asked"] else None)
        write_to(child["out"], child["err"])
        os.chdir(child["cwd"])
        become_environment(child["env"])
        if child["umask"] is not None:
            os.umask(child["umask"])
        become_program([sys.executable, *child["argv"]])
        show_as([sys.executable, *child["argv"]])
        self.serves_run = True
        for name in self.conf["optional"]:
            if not child["calls"]:
                self.ahead.forget(name)
        hidden = {top: modules[top] for top, modules in self.ahead.withheld.items() if top in modules}
        shadowed = namesakes(self.before, hidden)
        found = [(module, names) for module, names in child["found"] if not self.ahead.has(module, names)]
        if found and not shadowed:
            self.conf["own"] = child["own"]
            for module, names in found:
                self.import_found(module, names)
            self.note_mains()
            self.told["reads"] = sorted(self.reads.names)
        self.times["imported"] = self.clock()
        tell(self.fd, op="preloaded", **self.told, namesakes=shadowed, times=self.times)
