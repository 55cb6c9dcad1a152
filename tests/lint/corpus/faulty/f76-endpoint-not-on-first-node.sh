#!/bin/bash
#SBATCH --output=%j.o
#SBATCH -N 2
#SBATCH --ntasks-per-node=1
export OMP_NUM_THREADS=1
nodes=( $(scontrol show hostnames "$SLURM_JOB_NODELIST") )
head=${nodes[1]}
ip=$(srun -N1 -n1 -w "$head" hostname -i)
srun torchrun --nnodes 2 --nproc_per_node 4 --rdzv_id 1 --rdzv_backend c10d --rdzv_endpoint $ip:7001 t.py
