"""A library raises KeyboardInterrupt."""

from loop import train


def read_key(rank):
    if rank == 2:
        raise KeyboardInterrupt("q was pressed")


train(read_key)
