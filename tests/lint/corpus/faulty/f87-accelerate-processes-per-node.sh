#!/bin/bash
#SBATCH --output=%j.o
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
srun bash -c "accelerate launch --num_machines=\$SLURM_NNODES --num_processes=\$SLURM_GPUS_ON_NODE --machine_rank=\$SLURM_NODEID --main_process_ip=n1 --main_process_port=7001 t.py"
