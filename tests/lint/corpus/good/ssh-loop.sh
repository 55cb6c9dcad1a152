#!/bin/bash
hosts=(node1 node2 node3)
port=5001
i=0
for host in "${hosts[@]}"; do
  ssh "$host" "cd $PWD && OMP_NUM_THREADS=8 torchrun --nnodes=3 --node_rank=$i --nproc_per_node=8 --master_addr=${hosts[0]} --master_port=$port train.py" &
  i=$((i + 1))
done
wait
