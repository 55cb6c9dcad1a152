"""A rank has a wrong MASTER_PORT."""

import os

from loop import train

if os.environ["RANK"] == "1":
    os.environ["MASTER_PORT"] = "9"
train(print)
