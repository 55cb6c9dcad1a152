#!/bin/bash
MICRO=4
GPUS=8
cat > ds_config.json <<'EOF'
{
  "train_micro_batch_size_per_gpu": $MICRO,
  "bf16": {"enabled": true}
}
EOF
deepspeed --num_gpus $GPUS train.py --deepspeed_config ds_config.json
