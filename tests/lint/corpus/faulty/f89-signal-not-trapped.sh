#!/bin/bash
#SBATCH --output=%j.o
#SBATCH --signal=SIGTERM@120
#SBATCH --requeue
f() { scontrol requeue $SLURM_JOB_ID; }
trap "f" TERM
srun python t.py --resume &
wait $!
