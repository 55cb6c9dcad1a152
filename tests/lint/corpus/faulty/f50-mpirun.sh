#!/bin/bash
export MASTER_ADDR=node1
export MASTER_PORT=5001
export HF_HOME=/data/hf
mpirun -np 8 -H node1:4,node2:4 -x MASTER_ADDR -x MASTER_PORT python train.py
