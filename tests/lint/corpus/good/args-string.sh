#!/bin/bash
export OMP_NUM_THREADS=2
DISTRIBUTED_ARGS="--nproc_per_node 4 --nnodes 1 --standalone"
MODEL_ARGS="--layers 12 --hidden 768"
python -m torch.distributed.run $DISTRIBUTED_ARGS \
       train.py $MODEL_ARGS \
       --fp16 "$@"
