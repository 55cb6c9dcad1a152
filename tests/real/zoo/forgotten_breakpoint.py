"""A rank stops at a breakpoint that was forgotten."""

import os
import sys

from loop import train


def inspect(rank):
    if rank == 2:
        sys.stdin = os.fdopen(os.pipe()[0])
        breakpoint()  # noqa: T100


train(inspect)
