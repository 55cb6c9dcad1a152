"""Somebody kills a rank."""

import os
import signal

from loop import train


def kill(rank):
    if rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)


train(kill)
