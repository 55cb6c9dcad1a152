#!/bin/bash
#SBATCH --output=%j.o
#SBATCH -N 2
#SBATCH --ntasks-per-node=4
srun bash -c "export MASTER_ADDR=\$(hostname -I | cut -d\" \" -f1); python t.py"
