#!/bin/bash
#SBATCH --output=%j.o
#SBATCH --ntasks=8
mpirun -np $SLURM_NTASKS python t.py
