#!/bin/bash
while read -r h; do
  echo "$h"
done < <(scontrol show hostnames $SLURM_JOB_NODELIST)
