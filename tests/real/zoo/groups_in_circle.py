"""Two ranks use two process groups in different orders."""

import torch.distributed as dist
from loop import train

dist.init_process_group("gloo")
groups = [dist.new_group([0, 1]) for _ in range(2)]


def meet(rank):
    if rank < 2:
        for group in groups if rank == 0 else reversed(groups):
            dist.barrier(group)


train(meet)
