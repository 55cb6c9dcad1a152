#!/bin/bash
export CHOSEN_MODE=quick
run() {
  deepspeed --hostfile machines.txt --num_nodes 2 --num_gpus 2 --save_pid --master_port 27400 dump.py --epochs 3
}
cat > machines.txt <<EOF
n1 slots=2
n2 slots=2
EOF
echo "CHOSEN_MODE=$CHOSEN_MODE" > .deepspeed_env
echo "NCCL_DEBUG=WARN" >> .deepspeed_env
run
