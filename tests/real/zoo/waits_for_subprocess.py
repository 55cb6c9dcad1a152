"""A rank waits for a program that does not end."""

import subprocess

from loop import train


def convert(rank):
    if rank == 0:
        subprocess.run(["sleep", "600"])


train(convert)
