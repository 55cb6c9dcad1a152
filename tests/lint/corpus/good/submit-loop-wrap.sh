#!/bin/bash
for n in 1 2 4; do
  sbatch --nodes=$n --gpus-per-node=4 --output=scale-%j.out --wrap "srun python bench.py --nodes $n"
done
