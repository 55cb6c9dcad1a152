#!/bin/bash
#SBATCH --output=%j.o
#SBATCH -N 2
#SBATCH --ntasks-per-node=2
srun python t.py --rank $SLURM_PROCID
