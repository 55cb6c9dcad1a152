#!/bin/bash
cat hostfile | while read -r host slots; do
  echo "$host"
  ssh $host "pkill -f train.py"
done
