"""A rank whose stderr goes nowhere raises an exception."""

import os

from loop import train


def check(rank):
    if rank == 1:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        raise ValueError("expected 3 channels, got 4")


train(check)
