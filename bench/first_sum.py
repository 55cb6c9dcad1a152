"""One all-reduce, and the time at which it was done. The script that bench/launch.py launches."""

import os
import time

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
dist.all_reduce(torch.ones(1))
print("reduced", time.time(), flush=True)
if os.environ.get("BENCH_KILL") and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    if dist.get_rank() == 1:
        print("killed", time.time(), flush=True)
        os.kill(os.getpid(), 9)
    time.sleep(60)
dist.destroy_process_group()
