#!/bin/bash
JOB=exp1
HEAD=h1
for h in h1 h2; do
  ssh -n $h "tmux new-session -d -s $JOB 'cd $PWD; source venv/bin/activate; OMP_NUM_THREADS=2 torchrun --rdzv-backend=c10d --rdzv-id=$JOB --rdzv-endpoint=$HEAD:5678 --nnodes=2 --nproc-per-node=2 train.py --lr 3e-4'"
done
