#!/bin/bash
#SBATCH --output=%j.o
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
accelerate launch --num_machines 2 --num_processes 8 --rdzv_backend c10d --main_process_ip n1 --main_process_port 7001 t.py
