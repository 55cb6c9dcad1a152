#!/bin/bash
for lr in 0.1 0.01; do
  for seed in 1 2 3; do
    sbatch <<EOT
#!/bin/bash
#SBATCH --job-name=lr$lr-$seed
#SBATCH --output=logs/%x-%j.out
#SBATCH --nodes=1
#SBATCH --gpus-per-node=1
srun python train.py --lr $lr --seed $seed --run "\$SLURM_JOB_ID"
EOT
  done
done
