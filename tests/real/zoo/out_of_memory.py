"""A tensor is larger than the memory."""

import torch
from loop import train


def allocate(rank):
    if rank == 1:
        torch.empty(1 << 50)


train(allocate)
