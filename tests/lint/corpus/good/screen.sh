#!/bin/bash
export OMP_NUM_THREADS=4
screen -dmS night bash -c "cd /data/work && torchrun --standalone --nproc_per_node=2 dump.py --lr 0.1 2>&1 | tee night.log"
