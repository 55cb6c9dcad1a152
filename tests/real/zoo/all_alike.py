"""All ranks see the same NaN, and raise the same exception."""

import torch
import torch.distributed as dist
from loop import train


def check(rank):
    loss = torch.tensor(float("nan") if rank == 1 else 1.0)
    dist.all_reduce(loss)
    if not torch.isfinite(loss):
        raise FloatingPointError("loss is nan")


train(check)
