#!/bin/bash
#SBATCH --output=%j.o
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:4
export OMP_NUM_THREADS=1
srun torchrun --nnodes=2 --nproc_per_node=$((SLURM_NNODES * 4)) --rdzv_backend=c10d --rdzv_endpoint=n1:7001 t.py
