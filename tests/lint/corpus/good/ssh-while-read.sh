#!/bin/bash
while read -r host _; do
  ssh -n -o BatchMode=yes "$host" nvidia-smi
done < hostfile
while read -r host; do
  ssh "$host" uptime < /dev/null
done < hostfile
cat hostfile | while read -r host; do
  rsync -a "$PWD/" "$host:$PWD/"
done
