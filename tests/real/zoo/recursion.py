"""A function calls itself without end."""

from loop import train


def descend(depth):
    return descend(depth + 1)


train(lambda rank: descend(0) if rank == 2 else None)
