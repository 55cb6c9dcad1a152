#!/bin/bash
#SBATCH --output=%j.o
export NCCL_SOCKET_IFNAME=eth0
mpirun --hostfile hosts -np 16 --bind-to none python t.py
