#!/bin/sh
mpiexec.hydra -f hosts -n 8 -ppn 4 -genv OMP_NUM_THREADS 4 python train.py
