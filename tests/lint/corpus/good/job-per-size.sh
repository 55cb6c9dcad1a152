#!/bin/bash
# submit one job per model size
for size in small base; do
  cat > "job_$size.sbatch" <<EOF
#!/bin/bash
#SBATCH --job-name=$size
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --time=30
#SBATCH --output=$size-%j.out
export OMP_NUM_THREADS=8
head=\$(scontrol show hostnames "\$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes=2 --nproc-per-node=4 --rdzv-backend=c10d --rdzv-id=\$SLURM_JOB_ID \\
  --rdzv-endpoint="\$head:\$((10000 + SLURM_JOB_ID % 20000))" train.py --size $size
EOF
  sbatch "job_$size.sbatch"
done
