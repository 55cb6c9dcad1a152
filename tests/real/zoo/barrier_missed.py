"""A rank does not come to a monitored barrier; rank 0 complains."""

import time
from datetime import timedelta

import torch.distributed as dist
from loop import train


def tokenize():
    time.sleep(60)


def meet(rank):
    if rank == 2:
        tokenize()
    dist.monitored_barrier(timeout=timedelta(seconds=10))


train(meet)
