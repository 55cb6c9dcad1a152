"""Descendants are killed; one that this user may not signal is reported as left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from waiting import until

from muster.linux import processes, procfs

KILLS = """
import json, os, signal, time
from muster.linux import processes, procfs
null = os.open(os.devnull, os.O_RDWR)
other = processes.spawn(["sleep", "1000"], os.environ, "/", null, null, null)
print(other, flush=True)
os.setresuid(65534, 65534, 65534)
mine = processes.spawn(["sleep", "1000"], os.environ, "/", null, null, null)

class Clock:
    # it stands still until one look after the death of what can be killed; the other one is waited for in vain
    sleep, dead = staticmethod(time.sleep), False

    def monotonic(self):
        before, self.dead = self.dead, not procfs.lives(mine)
        return 10.0 if before else 0.0

processes.time = Clock()
assert processes.send_signal(other, signal.SIGTERM) and processes.send_signal(other, signal.SIGTERM, group=True)
killed, left = processes.kill_descendants(os.getpid(), within=5.0)
left = [one["pid"] for one in left]
print(json.dumps([mine in [one["pid"] for one in killed], other in left, mine in left]))
"""


CLEANS_UP = """
import os
from muster.agent.cleanup import Cleanup
from muster.linux import processes
from muster.linux.eventloop import EventLoop
null = os.open(os.devnull, os.O_RDWR)
other = processes.spawn(["sleep", "1000"], os.environ, "/", null, null, null)
print(other, flush=True)
os.setresuid(65534, 65534, 65534)
said = []

class Any:
    def __getattr__(self, name):
        return self
    def __call__(self, *words, **fields):
        said.extend(word for word in words if word == "cleaned_up")
        return {}

class Ranks(Any):
    external = None
    run = Any()
    run.loop = EventLoop()
    def left(self):
        return {}
    def persistent_pids(self):
        return ()

cleanup = Cleanup(Ranks())
Ranks.run.loop.call_later(0.1, lambda: said.append("a timer"))
cleanup.begin(0.0, True)
cleanup.begin(0.0, True)
while "cleaned_up" not in said:
    Ranks.run.loop.run_once(1.0)
print(said)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process as another user")
def test_an_agent_does_something_else_while_a_process_does_not_end(env: dict[str, str]) -> None:
    """As one whose disk stalls: for five seconds, no output was sent and nobody was answered."""
    env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run([sys.executable, "-c", CLEANS_UP], env=env, capture_output=True, text=True, timeout=60)
    other, *found = done.stdout.splitlines()
    os.kill(int(other), signal.SIGKILL)
    assert (0, ["['a timer', 'cleaned_up']"]) == (done.returncode, found), done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process as another user")
def test_a_process_of_another_user_is_left(env: dict[str, str]) -> None:
    """As sudo is for its user: it became an error of the agent, which left all others."""
    env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run([sys.executable, "-c", KILLS], env=env, capture_output=True, text=True, timeout=240)
    other, *found = done.stdout.splitlines()
    os.kill(int(other), signal.SIGKILL)  # the end of its parent may not end it either
    assert (0, ["[true, true, false]"]) == (done.returncode, found), done.stderr


def test_a_process_that_exits_by_itself_was_not_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the resource tracker of mp.spawn, whose command line is gone before it is a zombie."""
    with subprocess.Popen(["sh", "-c", "sleep 1000 & wait"]) as shell:
        until(lambda: [name for name, _ in processes.descendants(shell.pid).values()] == ["sleep"], "it is started")
        (child,) = processes.descendants(shell.pid)
        assert not procfs.is_exiting(child)
        with monkeypatch.context() as patched:
            patched.setattr(procfs, "is_exiting", lambda pid: True)
            killing = processes.Killing(shell.pid, within=60.0)
            assert not killing.step() and killing.killed == [], "it is waited for"
        until(lambda: killing.step(), "it has exited")
        shell.wait()
    assert killing.left == [] and procfs.is_exiting(child)
    zombie = os.posix_spawn("/bin/true", ["true"], {})
    until(lambda: not procfs.lives(zombie), "it has exited")
    assert procfs.is_exiting(zombie)
    os.waitpid(zombie, 0)
