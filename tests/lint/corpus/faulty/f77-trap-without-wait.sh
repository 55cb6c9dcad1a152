#!/bin/bash
#SBATCH --output=%j.o
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
trap "echo bye; scontrol requeue $SLURM_JOB_ID" SIGTERM
python t.py --resume
