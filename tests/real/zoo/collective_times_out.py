"""A rank evaluates for longer than the time-out of the process group."""

import time
from datetime import timedelta

import torch.distributed as dist
from loop import train


def evaluate(rank):
    if rank == 1:
        time.sleep(60)


dist.init_process_group("gloo", timeout=timedelta(seconds=10))
train(evaluate)
