#!/bin/bash
export OMP_NUM_THREADS=4
NGPU=4
CUDA_VISIBLE_DEVICES=0,1,2,3 python3 -m torch.distributed.launch \
  --nproc_per_node=$NGPU --master_port 4321 --use_env main.py
