#!/bin/bash
#SBATCH -N 1
#SBATCH --ntasks-per-node=4
#SBATCH --gres=gpu:4
#SBATCH --time=1:00:00
#SBATCH --output=%j.txt
export OMP_NUM_THREADS=2
if [ -n "${SLURM_JOB_ID:-}" ]; then
  export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  export MASTER_PORT=$((17000 + SLURM_JOB_ID % 1000))
  srun --export=ALL,WORLD_SIZE=4 sh -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID python train.py --x 1'
else
  torchrun --standalone --nproc-per-node=4 train.py --x 1
fi
