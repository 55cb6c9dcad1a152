#!/bin/bash
mkdir -p logs
export OMP_NUM_THREADS=8
nohup torchrun --standalone --nproc_per_node=8 train.py > logs/train.log 2>&1 &
echo $! > train.pid
