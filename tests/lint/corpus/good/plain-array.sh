#!/bin/bash
export OMP_NUM_THREADS=4
MODEL_ARGS=(
    --num-layers 12
    --data-path $1
)
MODE=debug
if [ $MODE = debug ]; then
  MODEL_ARGS+=(--log-interval 1)
fi
torchrun --standalone --nproc_per_node=2 train.py ${MODEL_ARGS[@]}
