"""A rank reduces a tensor of another type than the others."""

import torch
import torch.distributed as dist
from loop import train


def count(rank):
    dist.all_reduce(torch.zeros(1000, dtype=torch.float64 if rank == 2 else torch.float32))


train(count)
