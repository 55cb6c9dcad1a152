import os

import submitit


def work(backend):
    rank = int(os.environ.get("SLURM_PROCID", 0))
    size = int(os.environ.get("SLURM_NTASKS", 1))
    return os.system(f"python train.py --rank={rank} --world-size={size} --backend={backend}")


executor = submitit.AutoExecutor(folder="logs")
executor.update_parameters(name="sub", nodes=2, tasks_per_node=4, gpus_per_node=4, timeout_min=10)
job = executor.submit(work, "nccl")
print(job.job_id)
print(job.result())
