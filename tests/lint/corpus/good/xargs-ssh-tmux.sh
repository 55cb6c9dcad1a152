#!/usr/bin/env bash
JOB_NAME=multi-node
xargs -a hosts -I {} \
    ssh {} tmux new-session -d -s $JOB_NAME -c $(pwd) \
    -e OMP_NUM_THREADS=1 \
    $(which python) -m torch.distributed.run \
    --rdzv-id $JOB_NAME \
    --rdzv-backend c10d \
    --rdzv-endpoint $(head -n 1 hosts):5001 \
    --nnodes $(grep -c '^' hosts) \
    --nproc-per-node gpu \
    train_llm.py
