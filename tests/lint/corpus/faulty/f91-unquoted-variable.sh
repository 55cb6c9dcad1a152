#!/bin/bash
#SBATCH --output=%j.o
if [ $1 = debug ]; then exit; fi
python t.py
