#!/bin/bash
export CHOSEN_MODE=quick
export OMP_NUM_THREADS=1
export MASTER_ADDR=127.0.0.1 MASTER_PORT=27311 WORLD_SIZE=2
for r in 0 1; do
  RANK=$r LOCAL_RANK=$r python dump.py --lr 0.1 --rank $r &
done
wait
