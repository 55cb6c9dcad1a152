#!/bin/bash
#SBATCH --output=%j.o
#SBATCH -N 2
srun --overlap -N1 -n1 -w $h ray start --head &
sleep 9
srun -N1 ray start --block --address=x &
python x.py
