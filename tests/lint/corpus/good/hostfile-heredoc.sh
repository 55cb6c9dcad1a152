#!/bin/bash
N1=node1
N2=node2
SLOTS=8
cat > hostfile <<EOF
$N1 slots=$SLOTS
$N2 slots=$SLOTS
EOF
cat > ds_config.json <<EOT
{
  "train_micro_batch_size_per_gpu": 4,
  "zero_optimization": {"stage": 2},
  "bf16": {"enabled": true}
}
EOT
deepspeed --hostfile hostfile train.py --deepspeed_config ds_config.json
