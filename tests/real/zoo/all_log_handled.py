"""All ranks log an exception that they handle; one raises another exception while the others compute."""

import logging
import time

from loop import train

try:
    import flash_attention_of_nobody  # noqa: F401
except ImportError:
    logging.exception("no fast attention, taking the slow one")


def check(rank):
    if rank == 3:
        raise ValueError("token 50300 is out of range")
    time.sleep(1)


train(check)
