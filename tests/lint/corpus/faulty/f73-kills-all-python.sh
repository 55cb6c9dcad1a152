#!/bin/bash
#SBATCH --output=%j.o
ps aux | grep python | grep -v grep | awk '{print $2}' | xargs kill -9
