#!/bin/bash
#SBATCH --output=%j.o
#SBATCH -N 2
srun -N1 -n1 python a.py &
srun -N1 -n1 python b.py &
