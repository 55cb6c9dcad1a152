"""Sum the rank numbers with all-reduce and verify the result, under any launcher or as a single process.

muster run -g 4 examples/distributed_sum.py
torchrun --nproc-per-node 4 examples/distributed_sum.py
python examples/distributed_sum.py
"""

import argparse
import json
import os
import socket

import torch
import torch.distributed as dist

# The environment variables of the rank differ by launcher; those of torchrun come first.
RANK = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
WORLD_SIZE = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
LOCAL_RANK = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")


def from_environment(names, default):
    """The first of these variables that is set, as an integer."""
    return next((int(os.environ[name]) for name in names if name in os.environ), default)


def main():
    """Join the process group, sum, verify, leave the group."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=("gloo", "nccl", "auto"), default="auto")
    parser.add_argument("--rank", type=int, help="for launchers that do not set the rank")
    parser.add_argument("--world-size", type=int, help="for launchers that do not set the world size")
    parser.add_argument("--local-rank", "--local_rank", type=int, help="set by some launchers")
    parser.add_argument("--deepspeed", action="store_true", help="accepted, as in scripts for deepspeed")
    parser.add_argument("--deepspeed_config", help="JSON file, as in scripts for deepspeed; its keys are printed")
    args = parser.parse_args()

    rank = from_environment(RANK, 0) if args.rank is None else args.rank
    world_size = from_environment(WORLD_SIZE, 1) if args.world_size is None else args.world_size
    local_rank = from_environment(LOCAL_RANK, args.local_rank or 0)
    backend = args.backend
    if backend == "auto":
        backend = "nccl" if torch.cuda.is_available() else "gloo"
    device = torch.device("cuda", local_rank % torch.cuda.device_count()) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)

    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500")
    dist.init_process_group(backend, rank=rank, world_size=world_size)
    print(f"rank {rank} of {world_size} on {socket.gethostname()}, local rank {local_rank}, {device}, {backend}")

    total = torch.tensor(float(rank), device=device)
    dist.all_reduce(total)
    expected = world_size * (world_size - 1) / 2
    if total.item() != expected:
        raise SystemExit(f"rank {rank}: the sum is {total.item()}, expected {expected}")
    if rank == 0 and args.deepspeed_config:
        with open(args.deepspeed_config) as file:
            print(f"{args.deepspeed_config} has {', '.join(json.load(file))}")
    if rank == 0:
        print(f"the sum of 0 to {world_size - 1} is {total.item():g}, as it should be")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
