"""A rank takes a lock twice."""

import threading

from loop import train

lock = threading.Lock()


def update_cache(rank):
    if rank == 1:
        with lock, lock:
            pass


train(update_cache)
