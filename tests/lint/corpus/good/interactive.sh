#!/bin/bash
# inside salloc -N 2
export OMP_NUM_THREADS=4
srun --jobid=$1 --overlap --ntasks-per-node=1 torchrun --nnodes=2 --nproc-per-node=4 --rdzv-backend=c10d --rdzv-endpoint=$2:7001 train.py
