"""A script replaces sys.excepthook by one that prints little."""

import sys

from loop import train


def pretty(kind, error, trace):
    print("oh no, an error", file=sys.stderr)


def check(rank):
    if rank == 3:
        sys.excepthook = pretty
        raise ValueError("5 heads do not divide 64")


train(check)
