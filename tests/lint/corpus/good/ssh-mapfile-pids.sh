#!/usr/bin/env bash
set -euo pipefail
mapfile -t NODES < nodes.txt
NPROC=${NPROC:-8}
MASTER=${NODES[0]}
PORT=$(shuf -i 20000-29000 -n 1)
RUN_ID="run-$(date +%s)"
pids=()
for i in "${!NODES[@]}"; do
  ssh -n "${NODES[$i]}" "cd $PWD && source .venv/bin/activate && OMP_NUM_THREADS=4 torchrun \
      --nnodes=${#NODES[@]} --node_rank=$i --nproc_per_node=$NPROC \
      --master_addr=$MASTER --master_port=$PORT train.py --run-id $RUN_ID" > "log.$i" 2>&1 &
  pids+=($!)
done
rc=0
for p in "${pids[@]}"; do wait "$p" || rc=$?; done
exit $rc
