#!/bin/bash
#SBATCH --output=%j.o
#SBATCH -N 2
#SBATCH --ntasks-per-node=2
cat > run.sh <<EOF
#!/bin/bash
python t.py --rank $SLURM_PROCID
EOF
srun bash run.sh
