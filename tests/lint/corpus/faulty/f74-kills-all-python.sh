#!/bin/bash
#SBATCH --output=%j.o
kill -9 $(pgrep -f train.py)
