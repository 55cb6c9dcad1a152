#!/bin/bash
export CUDA_VISIBLE_DEVICES=0,1,2,3
deepspeed --num_gpus=4 --module training.main \
    --deepspeed ds.json \
    --per_device_train_batch_size 4 \
    --learning_rate 2e-5
