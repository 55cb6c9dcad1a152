"""Native code aborts."""

import os

from loop import train


def crash(rank):
    if rank == 1:
        os.abort()


train(crash)
