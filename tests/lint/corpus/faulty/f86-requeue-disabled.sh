#!/bin/bash
#SBATCH --output=%j.o
#SBATCH --no-requeue
python t.py || scontrol requeue $SLURM_JOBID
