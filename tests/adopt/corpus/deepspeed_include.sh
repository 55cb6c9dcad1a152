export CHOSEN_MODE=quick
export OMP_NUM_THREADS=1
deepspeed \
    --hostfile hostfile \
    --include n1@n2 \
    --enable_each_rank_log logs \
    dump.py \
    --name ds --lr 0.1
