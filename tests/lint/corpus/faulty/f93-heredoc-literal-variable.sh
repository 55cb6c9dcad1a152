#!/bin/bash
cat > acc.yaml <<'EOF'
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
num_machines: 2
num_processes: 16
machine_rank: 0
main_process_ip: ${HEAD_IP}
main_process_port: 21500
EOF
export OMP_NUM_THREADS=4
accelerate launch --config_file acc.yaml --machine_rank $1 train.py
