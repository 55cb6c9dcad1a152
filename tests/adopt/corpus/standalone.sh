#!/bin/bash
export CHOSEN_MODE=quick OMP_NUM_THREADS=1
torchrun --standalone --nnodes=1 --nproc-per-node=2 \
   dump.py --lr 0.1 "two words"
