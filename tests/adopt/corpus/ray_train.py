import os
import sys

import ray

ray.init(address="auto")


@ray.remote(num_gpus=1)
def train(rank, size, backend):
    os.environ["RANK"] = str(rank)
    os.environ["WORLD_SIZE"] = str(size)
    os.environ["MASTER_ADDR"] = os.environ.get("SLURM_SUBMIT_HOST", "127.0.0.1")
    os.environ["MASTER_PORT"] = "23456"
    return os.system(f"python train.py --rank={rank} --world-size={size} --backend={backend}")


size = int(os.environ.get("SLURM_NTASKS", 1))
waiting = [train.remote(number, size, "nccl") for number in range(size)]
sys.exit(any(ray.get(waiting)))
