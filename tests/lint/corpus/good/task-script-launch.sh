#!/bin/bash
source /opt/venv/bin/activate
export OMP_NUM_THREADS=6
torchrun --nnodes=$SLURM_NNODES --nproc_per_node=4 --node_rank=$SLURM_NODEID \
  --master_addr=$1 --master_port=$2 main.py --batch_size 128
