#!/bin/bash
export CUDA_VISIBLE_DEVICES=0,1
srun --gres=gpu:2 --ntasks=2 python train.py
