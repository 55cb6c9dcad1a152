"""`by_spawn.py RANKS PORT FILE [WHAT]`: the ranks of first_sum.py, started by torch.multiprocessing."""

import os
import sys

import torch.multiprocessing
from first_sum import first_sum


def rank(number: int, total: int, port: str, words: list[str]) -> None:
    """One of the ranks."""
    os.environ.update(RANK=str(number), WORLD_SIZE=str(total), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    first_sum(*words)


if __name__ == "__main__":
    count, port, *words = sys.argv[1:]
    torch.multiprocessing.spawn(rank, (int(count), port, words), nprocs=int(count))
