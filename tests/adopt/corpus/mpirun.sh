mpirun \
    -H n1:2,n2:2 \
    -x MASTER_ADDR=n1 \
    -x MASTER_PORT=23456 \
    -x CHOSEN_MODE=quick \
    -x OMP_NUM_THREADS=1 \
    -bind-to none \
    -map-by slot \
    -wdir $(pwd) \
    -output-filename logs/mpi \
    $(which python) dump.py \
    --name mpi --lr 0.1
