"""A rank logs an exception that it handles, and later exits with 3 without a word."""

import logging
import os
import sys

from loop import train

if os.environ["RANK"] == "2":
    try:
        import flash_attention_of_nobody  # noqa: F401
    except ImportError:
        logging.exception("no fast attention, taking the slow one")


def leave(rank):
    if rank == 2:
        sys.exit(3)


train(leave)
