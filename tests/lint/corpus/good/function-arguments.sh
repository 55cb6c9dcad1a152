#!/bin/bash
# usage: ./g14_functions.sh NODE_RANK MASTER
set -o nounset
die() { echo "$*" >&2; exit 2; }
[[ $# -eq 2 ]] || die "usage: $0 NODE_RANK MASTER"
NODE_RANK=$1
MASTER=$2
NNODES=2
if command -v nvidia-smi >/dev/null; then
  NGPU=$(nvidia-smi -L | wc -l)
else
  NGPU=2
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
launch() {
  local script=$1; shift
  torchrun --nnodes="$NNODES" --node_rank="$NODE_RANK" --nproc_per_node="$NGPU" \
    --master_addr="$MASTER" --master_port="${MASTER_PORT:-23400}" "$script" "$@"
}
launch train.py --epochs 3
