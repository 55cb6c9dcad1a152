"""A rank exits with a code of its own, past all clean-up."""

import os

from loop import train

train(lambda rank: os._exit(7) if rank == 3 else None)
