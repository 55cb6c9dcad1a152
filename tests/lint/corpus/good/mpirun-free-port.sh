#!/bin/bash
set -eu
HOSTS=node1:4,node2:4
NP=8
export NCCL_SOCKET_IFNAME=ib0
PORT=$(python3 -c 'import socket; s=socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
mpirun -np "$NP" -H "$HOSTS" \
    --bind-to none --map-by slot \
    -x PATH -x LD_LIBRARY_PATH -x NCCL_SOCKET_IFNAME \
    -x MASTER_ADDR=node1 -x MASTER_PORT="$PORT" -x OMP_NUM_THREADS=4 \
    --mca pml ob1 --mca btl ^openib \
    python train_mpi.py --batch-size 32
