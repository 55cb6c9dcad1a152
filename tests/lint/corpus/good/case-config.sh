#!/bin/bash
case "$1" in
  small) LAYERS=12; GPUS=1 ;;
  large) LAYERS=48; GPUS=8 ;;
  *) echo "usage: $0 small|large" >&2; exit 2 ;;
esac
export OMP_NUM_THREADS=4
torchrun --standalone --nproc_per_node=$GPUS train.py --layers $LAYERS
