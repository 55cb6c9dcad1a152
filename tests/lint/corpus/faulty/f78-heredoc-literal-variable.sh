#!/bin/bash
#SBATCH --output=%j.o
GPUS=8
cat <<"EOF" > config.yaml
num_processes: $GPUS
EOF
accelerate launch --config_file config.yaml t.py
