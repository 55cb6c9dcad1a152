"""An exception at the end of many frames of a library."""

import copy

from loop import train


class Opaque:
    """A value that cannot be copied."""

    def __deepcopy__(self, memo):
        raise TypeError("an open file cannot be copied")


def duplicate_model(rank):
    if rank == 2:
        nested = Opaque()
        for _ in range(12):
            nested = [{"inside": nested}]
        copy.deepcopy(nested)


train(duplicate_model)
