"""A rank closes its connections and cleans up for seconds before its exception is printed; its peers fail."""

import time

import torch.distributed as dist
from loop import train


def read(rank):
    if rank == 1:
        try:
            raise OSError("corrupt record in shard 1")
        finally:
            dist.destroy_process_group()
            time.sleep(3)


train(read)
