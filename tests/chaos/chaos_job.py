"""The script of the ranks in chaos runs: numbered lines, on stdout and in a file of the rank's own.

`chaos_job.py KIND FOLDER`. Each line is written to stdout and flushed, and only then appended to the file, by one
`write` with O_APPEND. So whatever kills the rank, its log has all numbers of the file, and at most the next one.
It runs until there is FOLDER/go, and then ends: `fails` by an exception of rank 1.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

kind, folder = sys.argv[1:3]
rank = os.environ["RANK"]
who = f"{socket.gethostname()}.{os.getpid()}"
own = os.open(f"{folder}/own-{rank}-{who}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
go = f"{folder}/go"
number = 0


def say(words: str = "") -> None:
    """Write the next line, on stdout and then to the own file."""
    global number
    print(f"line {rank} {who} {number} {words}".rstrip(), flush=True)
    os.write(own, b"%d\n" % number)
    number += 1


def told(name: str, text: object) -> None:
    """Write a file that the test reads; its name is the last that happens."""
    path = f"{folder}/{name}-{rank}-{who}"
    with open(f"{folder}/part-{name}-{rank}-{who}", "w") as file:
        file.write(str(text))
    os.replace(file.name, path)


def end(signum: int, frame: object) -> None:
    """End after a signal, and take a while for it."""
    for _ in range(5):
        say("ends")
        time.sleep(0.1)
    os._exit(4)


kept: list[object] = []


def family() -> None:
    """Start children that only their ancestry shows, and a block of shared memory."""
    from multiprocessing import shared_memory

    kept.append(shared_memory.SharedMemory(create=True, size=4096))
    child = subprocess.Popen(["sleep", "1000"])
    subprocess.Popen(["sleep", "1001"], env={}, start_new_session=True)
    subprocess.Popen(["sh", "-c", "trap '' TERM HUP INT; sleep 1002 & wait"], start_new_session=True)
    told("child", child.pid)


def steps() -> None:
    """Sum over all ranks at each step, until all have seen `go`."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    while True:
        done = torch.tensor(float(os.path.exists(go)))
        dist.all_reduce(done)
        say()
        if done:
            break
        time.sleep(0.02)
    dist.destroy_process_group()


if __name__ == "__main__":
    if kind == "slow end":
        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
    if kind == "family":
        family()
    if kind == "torch":
        steps()
    else:
        while not os.path.exists(go):
            for _ in range(50 if kind == "talks" and number < 20_000 else 1):
                say()
            time.sleep(0.02)
    told("bye", number)
    if kind == "fails" and rank == "1":
        raise ValueError("bad batch 17")
    if kind == "slow end":
        time.sleep(0.5)
    say("last")
