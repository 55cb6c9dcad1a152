#!/bin/bash
#SBATCH --output=%j.o
while IFS= read -r h; do ssh $h "cd /x && ./run.sh"; done < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
