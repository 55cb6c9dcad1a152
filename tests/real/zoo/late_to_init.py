"""A rank reads a file for too long before it joins; the others' rendezvous times out."""

import os
import time
from datetime import timedelta

import torch.distributed as dist
from loop import train

if os.environ["RANK"] == "1":
    time.sleep(60)
dist.init_process_group("gloo", timeout=timedelta(seconds=10))
train(print)
