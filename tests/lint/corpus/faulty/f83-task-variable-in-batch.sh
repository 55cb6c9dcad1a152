#!/bin/bash
#SBATCH --output=%j.o
#SBATCH -N 2
#SBATCH --ntasks-per-node=4
export RANK=$SLURM_PROCID
export LOCAL_RANK=$SLURM_LOCALID
srun python t.py
