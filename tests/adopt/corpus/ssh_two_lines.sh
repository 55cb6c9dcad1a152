#!/bin/bash
ssh n1 "cd /work/it; torchrun --nnodes 2 --node_rank 0 --nproc_per_node 2 --master_addr n1 --master_port 23456 train.py --lr 1" &
ssh n2 "cd /work/it; torchrun --nnodes 2 --node_rank 1 --nproc_per_node 2 --master_addr n1 --master_port 23456 train.py --lr 1" &
wait
