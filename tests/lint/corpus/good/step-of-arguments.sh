#!/usr/bin/env bash
PARTITION=$1
NAME=$2
CONFIG=$3
GPUS=${GPUS:-16}
PER_NODE=${PER_NODE:-8}
CPUS=${CPUS:-5}
export OMP_NUM_THREADS=$CPUS
PYTHONPATH="$(dirname "$0")/..:$PYTHONPATH" srun -p "$PARTITION" --job-name="$NAME" --gres=gpu:"$PER_NODE" \
  --ntasks="$GPUS" --ntasks-per-node="$PER_NODE" --cpus-per-task="$CPUS" --kill-on-bad-exit=1 \
  python -u train.py "$CONFIG" --launcher=slurm "${@:4}"
