"""A rank has no more data and exits with status 0; the others fail when they miss it."""

import os

from loop import train


def leave(rank):
    if rank == 2:
        os._exit(0)


train(leave)
