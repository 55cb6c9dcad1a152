#!/usr/bin/env bash
set -e
HOSTS=(n1 n2)
MASTER=${HOSTS[0]}
for i in "${!HOSTS[@]}"; do
  ssh "${HOSTS[$i]}" "cd $PWD && CHOSEN_MODE=quick OMP_NUM_THREADS=1 torchrun --nnodes=${#HOSTS[@]} --node_rank=$i --nproc_per_node=2 --master_addr=$MASTER --master_port=23456 dump.py --lr 0.1" &
done
wait
