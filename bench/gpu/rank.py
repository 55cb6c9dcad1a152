"""What a rank finds, as one line of JSON; with a GPU it sums with NCCL. The script that bench/gpu_check.py runs."""

import json
import os
import sys
import time

import torch
import torch.distributed as dist


def main():
    """Look at CUDA before and after its initialization, and report."""
    found = {
        "initialized": torch.cuda.is_initialized(),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "count": torch.cuda.device_count(),
        "counted_without_cuda": not torch.cuda.is_initialized(),
    }
    on_gpu = found["count"] > 0
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % found["count"])
    dist.init_process_group("nccl" if on_gpu else "gloo")
    one = torch.ones(1, device="cuda" if on_gpu else "cpu")
    dist.all_reduce(one)
    found["sum"] = one.item()
    found["reduced"] = time.time()
    if on_gpu:
        found["product"] = (torch.ones(64, 64, device="cuda") @ torch.ones(64, 64, device="cuda")).sum().item()
    os.write(1, f"found {json.dumps(found)}\n".encode())
    if "hold" in sys.argv:
        time.sleep(600)
    dist.destroy_process_group()


main()
