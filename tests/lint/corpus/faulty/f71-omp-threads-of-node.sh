#!/bin/bash
#SBATCH --output=%j.o
#SBATCH --cpus-per-task=32
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-8}
accelerate launch --multi_gpu --num_processes 4 t.py
