#!/bin/bash
first=$(sbatch --parsable train.sbatch)
for i in 1 2 3; do
  first=$(sbatch --parsable --dependency=afterany:$first train.sbatch)
done
echo "last: $first"
