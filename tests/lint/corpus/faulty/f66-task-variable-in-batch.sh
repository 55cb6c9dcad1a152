#!/bin/bash
#SBATCH --output=%j.o
#SBATCH --gres=gpu:4
export OMP_NUM_THREADS=1
srun torchrun --nnodes=2 --node_rank=${SLURM_NODEID} --nproc_per_node=4 --master_addr=n1 --master_port=7001 t.py
