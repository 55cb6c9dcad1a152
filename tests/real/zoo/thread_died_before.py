"""A thread of an innocent rank printed a traceback at the start; another rank raises while the others compute."""

import os
import threading
import time

from loop import train


def track():
    raise ConnectionError("the tracker's server is away")


if os.environ["RANK"] == "0":
    threading.Thread(target=track).start()


def check(rank):
    if rank == 3:
        raise ValueError("head dimension 80 is not supported")
    time.sleep(1)


train(check)
