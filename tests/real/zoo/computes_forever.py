"""A loop of a rank does not end."""

from loop import train


def refine(rank):
    while rank == 2:
        pass


train(refine)
