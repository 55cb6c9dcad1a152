#!/bin/bash
export OMP_NUM_THREADS=2
torchrun --standalone --nproc_per_node=2 train.py $@
