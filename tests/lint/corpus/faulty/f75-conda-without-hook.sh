#!/bin/bash
#SBATCH --output=%j.o
#SBATCH -n 2
source ~/.bashrc
srun bash -c "conda activate x && python t.py"
