#!/bin/bash
#SBATCH --output=%j.o
#SBATCH --nodes=2
#SBATCH --ntasks=8
srun deepspeed t.py --deepspeed ds.json
