"""`sys.exit` with a message."""

import sys

from loop import train


def check(rank):
    if rank == 1:
        sys.exit("error: the learning rate must be positive")


train(check)
