#!/bin/bash

source env.sh

readonly ADDR=$1
readonly PORT=$2

export CHOSEN_MODE=quick

env

python \
   -m torch.distributed.launch \
      --nproc_per_node=2 \
      --nnodes=$SLURM_NTASKS \
      --node_rank=$SLURM_NODEID \
      --master_addr=$ADDR \
      --master_port=$PORT \
      dump.py \
         --batch_size 128 \
         --learning_rate 5e-5 &

wait
