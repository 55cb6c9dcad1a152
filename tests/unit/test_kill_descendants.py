"""Descendants are killed; one that this user may not signal is reported as left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process as another user")
def test_a_process_of_another_user_is_left(env: dict[str, str]) -> None:
    """As sudo is for its user: it became an error of the agent, which left all others."""
    env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run([sys.executable, "-c", KILLS], env=env, capture_output=True, text=True, timeout=240)
    other, *found = done.stdout.splitlines()
    os.kill(int(other), signal.SIGKILL)  # the end of its parent may not end it either
    assert (0, ["[true, true, false]"]) == (done.returncode, found), done.stderr
