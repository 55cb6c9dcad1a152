"""One all-reduce, and the time at which it was done. The script that bench/launch.py launches."""

import os
import time

import torch
import torch.distributed as dist


def say(text):
    """One line by one write: under torchrun all ranks share one pipe, and print would write twice."""
    os.write(1, f"{text}\n".encode())


dist.init_process_group("gloo")
dist.all_reduce(torch.ones(1))
say(f"reduced {time.time()}")
if os.environ.get("BENCH_KILL") and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    if dist.get_rank() == 1:
        say(f"killed {time.time()}")
        os.kill(os.getpid(), 9)
    time.sleep(60)
dist.destroy_process_group()
