"""A rank waits for the lock of a file that a process of another rank holds."""

import fcntl
import os
import subprocess

from loop import train

PATH = f"/tmp/index-{os.environ['MASTER_PORT']}.lock"
if os.environ["RANK"] == "1":
    held = subprocess.Popen(["flock", PATH, "sh", "-c", "echo locked; exec sleep 600"], stdout=subprocess.PIPE)
    held.stdout.readline()  # type: ignore[union-attr]


def lock_index(rank):
    if rank == 1:
        file = open(PATH, "w")
        os.unlink(PATH)
        fcntl.flock(file, fcntl.LOCK_EX)


train(lock_index)
