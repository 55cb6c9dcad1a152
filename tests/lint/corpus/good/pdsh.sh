#!/bin/bash
export PDSH_RCMD_TYPE=ssh
pdsh -w n[1-2] "cd $PWD && OMP_NUM_THREADS=4 torchrun --nnodes=2 --nproc_per_node=8 --rdzv_backend=c10d --rdzv_endpoint=n1:7001 train.py"
