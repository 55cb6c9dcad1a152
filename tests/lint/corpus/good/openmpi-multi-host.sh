#!/bin/bash
export MASTER_ADDR=node01
export MASTER_PORT=5001
mpirun -np 16 -H node01:8,node02:8 \
    -x MASTER_ADDR -x MASTER_PORT -x PATH \
    -x NCCL_DEBUG=WARN \
    -bind-to none -map-by slot \
    -mca pml ob1 -mca btl ^openib \
    python train.py --epochs 3
