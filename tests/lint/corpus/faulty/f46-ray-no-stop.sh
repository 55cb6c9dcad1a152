#!/bin/bash
ray start --head --num-gpus=8
python tune.py
