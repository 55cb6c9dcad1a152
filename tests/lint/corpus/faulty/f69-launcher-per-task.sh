#!/bin/bash
#SBATCH --output=%j.o
#SBATCH --ntasks=4
#SBATCH --gres=gpu:4
export OMP_NUM_THREADS=1
srun torchrun --standalone --nproc_per_node=4 t.py
