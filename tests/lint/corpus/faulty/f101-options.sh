#!/bin/bash
export OMP_NUM_THREADS=4
torchrun --standalone --nproc_per_nodes=4 train.py
torchrun --standalone train.py --nproc_per_node 4
torchrun --standalone -–nproc_per_node=2 train.py
CUDA_VISIBLE_DEVICES=0,1 torchrun --standalone --nproc_per_node 4 train.py
deepspeed --num_gpus=8 --include=n1:0,1 train.py
for h in n1 n2; do
  ssh -n "$h" torchrun --nnodes 2 --node_rank 0 --nproc_per_node 4 --master_addr n1 --master_port 15000 train.py
done
