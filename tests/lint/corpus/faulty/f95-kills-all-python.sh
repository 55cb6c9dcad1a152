#!/bin/bash
export OMP_NUM_THREADS=4
trap "pkill -9 -f train.py; pkill -f python" EXIT
torchrun --standalone --nproc_per_node=2 train.py
