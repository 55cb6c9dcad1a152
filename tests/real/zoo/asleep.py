"""A rank waits for data that nobody writes."""

import time

from loop import train


def wait_for_data(rank):
    if rank == 3:
        time.sleep(600)


train(wait_for_data)
