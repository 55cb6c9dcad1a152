"""The processes of a node without an agent and a controller, as a program: their children are collected here.

`python node_alone.py SCENARIO FOLDER` runs one of the functions below, which fail with an AssertionError.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from pids import with_pid
from waiting import until

from muster.agent import rank_shim
from muster.agent.agent import Agent
from muster.agent.bootstrap import hook_sources
from muster.agent.context import NodeRun
from muster.agent.links import RankLinks
from muster.agent.log_streaming import LogStreamer
from muster.agent.ranks import RankProcesses
from muster.linux import processes, procfs
from muster.linux.eventloop import EventLoop

TORCH = {
    "__init__.py": "__version__ = '2.9.0'\nclass version:\n    cuda = None\n"
    "class default_generator:\n    seed = staticmethod(lambda: 0)\n",
    "distributed.py": "",
}
"""A torch that is imported at once."""


class Here:
    """The processes of node 0, and what they report."""

    def __init__(self, folder: Path, script: str, *preload: str, rank_command: dict[str, Any] | None = None):
        (folder / "torch").mkdir()
        for name, text in TORCH.items():
            (folder / "torch" / name).write_text(text)
        (folder / "script.py").write_text(script)
        self.folder, self.loop = folder, EventLoop()
        self.said: list[tuple[str, dict[str, Any]]] = []
        logs = LogStreamer(self.loop, self.emit, print)
        logs.node_folder = str(folder)
        links = RankLinks("", str(folder), print)
        run = NodeRun(self.loop, self.emit, print, False, "run", 0, str(folder), logs, links)
        command = {
            "argv": [sys.executable, str(folder / "script.py")],
            "python_index": 0,
            "cwd": str(folder),
            "ranks": [{"rank": 0, "local_rank": 0, "cpus": []}],
            "fork_server": True,
            "signal_group": False,
        }
        command.update(env={}, env_defaults={}, unset_pattern="", signal_group=False)
        settings = {"env": {}, "env_defaults": {}, "unset_pattern": "", "restored_pattern": "", "ranks": {"0": {}}}
        inherited = {**os.environ, "PYTHONPATH": str(folder)}
        fields = (run, [command], settings, preload, None, hook_sources(), "2.0", rank_command)
        self.ranks = RankProcesses(*fields, inherited=inherited)
        self.ranks.prepare()

    def emit(self, kind: str, payload: bytes = b"", **fields: Any) -> None:
        self.said.append((kind, fields))

    def hears(self, kind: str) -> dict[str, Any]:
        """Run until a message of this kind is sent, and return its fields."""

        def found() -> list[dict[str, Any]]:
            self.loop.run_once(0.01)
            self.ranks.reap()
            return [fields for said, fields in self.said if said == kind]

        return until(found, f"{kind} is reported")[-1]

    def start(self) -> None:
        """Start the rank."""
        attempt = self.folder / "attempt_0"
        attempt.mkdir()
        self.ranks.listen("127.0.0.1")
        self.ranks.run.logs.follow(0, str(attempt), [0])
        self.ranks.start(0, str(attempt), {})


def died(folder: Path) -> None:
    """The fork server is killed when the message to start ranks has arrived already."""
    node = Here(folder, "print('ran')")
    assert node.hears("ready")["fork"]
    assert node.ranks.forkserver is not None
    dead = node.ranks.forkserver.pid
    os.kill(dead, signal.SIGKILL)
    until(lambda: not procfs.lives(dead), "it is dead")
    node.start()
    assert 0 == node.hears("rank_exited")["code"]
    assert "ran\n" == (node.folder / "attempt_0" / "rank_00000.out").read_text()
    assert not [fields for kind, fields in node.said if kind == "start_failed"]


SLEEPS = "import time\ntime.sleep(1000)\n"


def died_before_a_signal(folder: Path) -> None:
    """A rank gets the signal that was sent while another fork server imports."""
    node = Here(folder, SLEEPS)
    node.hears("ready")
    assert node.ranks.forkserver is not None
    dead = node.ranks.forkserver.pid
    os.kill(dead, signal.SIGKILL)
    until(lambda: not procfs.lives(dead), "it is dead")
    node.start()
    node.ranks.signal(signal.SIGTERM, [0])
    assert signal.SIGTERM == node.hears("rank_exited")["signal"]


def warned(folder: Path) -> None:
    """The processes of the machine are read once for all ranks: that is repeated five times a second."""
    node = Here(folder, "")
    shell = ["sh", "-c", "trap : USR1; echo ready; while :; do sleep 0.1; done"]
    told, tell = os.pipe()
    node.ranks.pids = {rank: processes.spawn(["sleep", "1000"], os.environ, "/", 0, 1, 2) for rank in range(3)}
    node.ranks.pids[3] = processes.spawn(["sh", "-c", '"$@" & wait', "sh", *shell], os.environ, "/", 0, tell, 2)
    assert b"ready" in os.read(told, 100)
    looks = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal looks
        looks += event == "call" and frame.f_code is procfs.family.__code__

    sys.setprofile(count)
    listening = node.ranks.warn(signal.SIGUSR1)
    sys.setprofile(None)
    assert ([3], 1) == (listening, looks)


HELD = """
import os, time
server = os.getpid()

def wait():
    while os.getppid() != server and not os.path.exists("go"):
        time.sleep(0.01)

os.register_at_fork(after_in_child=wait)
"""


def signalled_early(folder: Path) -> None:
    """A rank gets the signal that was sent before it was forked; it has not been set up then, and says nothing."""
    (folder / "held.py").write_text(HELD)
    node = Here(folder, SLEEPS, "held")
    node.hears("ready")
    node.start()
    node.ranks.signal(signal.SIGINT, [0])
    assert signal.SIGINT == node.hears("rank_exited")["signal"]
    (folder / "go").touch()
    assert "" == (folder / "warm.log").read_text()
    assert not (folder / "attempt_0" / "rank_00000.err").exists()


INTERRUPTED = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("KeyboardInterrupt")
"""


def interrupted(folder: Path) -> None:
    """In a script SIGINT is the exception, as in plain Python."""
    node = Here(folder, INTERRUPTED)
    node.hears("ready")
    node.start()
    assert 0 == node.hears("rank_exited")["code"]
    assert "KeyboardInterrupt\n" == (folder / "attempt_0" / "rank_00000.out").read_text()


def reused(folder: Path) -> None:
    """A process that has got the pid of one that was collected is not killed at the end."""
    node = Here(folder, "")
    pid: int = until(lambda: node.loop.run_once(0.01) or node.ranks.recorder.pid, "the node is being described")
    until(lambda: node.ranks.reap() or pid not in node.ranks.names, "it is collected")
    other = with_pid(pid)
    node.ranks.close()
    assert other is None or procfs.lives(other)
    assert node.ranks.recorder.pid is None


def shim_of_reused(folder: Path) -> None:
    """A process that has got the pid of a rank is not signalled by the shim, which waits for what the rank has left."""
    ours, theirs = socket.socketpair()
    shim = os.fork()
    if shim == 0:
        ours.close()
        order = {"grace": 1000.0, "logs": []}
        leaves = ["sh", "-c", "setsid sleep 1000 & exit 0"]
        start = partial(processes.spawn, leaves, os.environ, "/", 0, 1, 2)
        os._exit(rank_shim._supervise_child(theirs, order, start))
    theirs.close()
    pid = rank_shim._answer(ours, "started")["pid"]
    until(lambda: procfs.stat(pid) is None, "the rank is collected")
    other = with_pid(pid)
    os.kill(shim, signal.SIGTERM)

    def sleeping() -> list[int]:
        return [one for one, (name, _) in processes.descendants(shim).items() if name == "sleep"]

    (left,) = until(sleeping, "it has left a process")
    os.kill(left, signal.SIGKILL)
    assert rank_shim._answer(ours, "exited")["asked"] is not None
    assert other is None or procfs.lives(other)
    ours.close()
    assert 0 == os.waitpid(shim, 0)[1]
    assert other is None or procfs.lives(other)


def external_reused(folder: Path) -> None:
    """Nor is it signalled by the agent, which hears of the exit later."""
    place = {"rank": 0, "local_rank": 0, "node": 0, "world_size": 1, "local_world_size": 1, "nodes": 1, "cpus": []}
    conf = {
        "tasks": False,
        "signal_group": False,
        "shim": "",
        "short": False,
        "base": str(folder),
        "token": "",
        "run_id": "run",
        "places": {"0": place},
        "first_rank": 0,
        "argv": ["true"],
        "python_index": None,
        "args_index": None,
    }
    node = Here(folder, "", rank_command=conf)
    external = node.ranks.external
    assert external is not None
    shim: Any = object()
    external.connections[shim] = 0
    pid = processes.spawn(["sleep", "1000"], os.environ, "/", 0, 1, 2)
    external.on_started(shim, pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    other = with_pid(pid)
    node.ranks.signal(signal.SIGTERM, [0])
    if other is not None:
        os.kill(other, signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(other, os.WUNTRACED)[1])


def crashed(folder: Path) -> None:
    """An agent that fails ends its ranks, although its controller is stopped and takes in nothing."""
    ours, theirs = socket.socketpair()
    agent = os.fork()
    if agent == 0:
        theirs.setblocking(False)
        failing = Agent(EventLoop(), {})
        processes.become_subreaper()
        failing.wire.connect(theirs.fileno(), os.dup(theirs.fileno()))
        processes.spawn(["sleep", "1000"], os.environ, "/", 0, 1, 2)
        try:
            failing.emit("output", bytes(10 << 20))
            raise RuntimeError("a fault")
        except RuntimeError:
            failing.fail()
    assert 1 == os.waitstatus_to_exitcode(os.waitpid(agent, 0)[1])
    assert "sleep" not in [name for name, _ in processes.descendants(os.getpid()).values()]
    ours.close()


if __name__ == "__main__":
    processes.become_subreaper()
    try:
        globals()[sys.argv[1]](Path(sys.argv[2]))
    finally:
        processes.kill_descendants(os.getpid())
