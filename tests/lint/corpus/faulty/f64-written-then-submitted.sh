#!/bin/bash
cat > job.sh <<EOF
#!/bin/bash
python train.py --id $SLURM_JOB_ID
EOF
sbatch --nodes=1 job.sh
