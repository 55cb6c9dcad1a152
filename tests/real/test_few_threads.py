"""Torch's server in a rank needs threads: where few are left, a rank goes without it instead of being aborted."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

PROGRAM = """
import os, resource, sys
import torch, torch.distributed
from muster.agent.hook import torch_server

what, room, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if os.getuid() == 0:
    os.setuid(1 << 20 | os.getpid())  # root has no such limit; and no other test has this user
mine = 0
for name in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{name}/status") as file:
            fields = dict(line.split(":", 1) for line in file)
    except OSError:
        continue
    if int(fields["Uid"].split()[0]) == os.getuid():
        mine += int(fields["Threads"])
if what == "processes":
    resource.setrlimit(resource.RLIMIT_NPROC, (mine + room, mine + room))
if what == "memory":
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + room * (8 << 20), used + room * (8 << 20)))
    resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, 8 << 20))
torch_server._start_server(path)
print("server" if os.path.exists(path) else "none", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(
    ("what", "room", "expected"),
    [
        ("processes", 0, "none"),
        ("processes", 1, "none"),
        ("processes", 8, "none"),
        ("processes", 5000, "server"),
        ("memory", 3, "none"),
        ("memory", 5000, "server"),
    ],
)
def test_a_rank_is_never_aborted_for_lack_of_threads(what: str, room: int, expected: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)  # another user writes there
        argv = [sys.executable, "-c", PROGRAM, what, str(room), f"{folder}/sock"]
        env = {**os.environ, "LOCAL_WORLD_SIZE": "2"}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=240)
    assert (0, expected) == (done.returncode, done.stdout.strip()), done.stderr
