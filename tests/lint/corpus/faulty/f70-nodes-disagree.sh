#!/bin/bash
#SBATCH --output=%j.o
#SBATCH --nodes=2
deepspeed --num_nodes=4 --num_gpus=8 --hostfile=h t.py
