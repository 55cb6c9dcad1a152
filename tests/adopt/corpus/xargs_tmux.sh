#!/bin/bash
# one torchrun per machine, each in a tmux session; machines has a name per line
RUN=night
xargs -a machines -I {} \
    ssh {} tmux new-session -d -s $RUN -c $(pwd) \
    -e CHOSEN_MODE=quick \
    -e OMP_NUM_THREADS=1 \
    $(which python) -m torch.distributed.run \
    --rdzv-id $RUN \
    --rdzv-backend c10d \
    --rdzv-endpoint $(head -n 1 machines):23456 \
    --nnodes $(grep -c '^' machines) \
    --nproc-per-node 2 \
    --redirects 3 \
    --log-dir logs \
    dump.py --name $RUN --lr 0.1
