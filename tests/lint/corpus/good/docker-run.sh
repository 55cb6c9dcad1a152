#!/bin/bash
docker run --rm --gpus all --ipc=host --ulimit memlock=-1 -e OMP_NUM_THREADS=8 -v "$PWD":/w -w /w \
  nvcr.io/nvidia/pytorch:24.05-py3 torchrun --standalone --nproc_per_node=8 train.py
