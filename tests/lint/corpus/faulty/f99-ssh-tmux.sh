#!/bin/bash
# one window per machine
for h in n1 n2; do
  ssh -n $h "tmux new -d -s run 'cd $PWD; OMP_NUM_THREADS=4 torchrun --nnodes=2 --nproc-per-node=2 --rdzv-backend=c10d --rdzv-endpoint=n1:29500 --rdzv-id=a train.py'"
done
