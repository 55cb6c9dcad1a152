#!/bin/bash
# Starts a process on each host; the `done` was lost.
for host in n1 n2; do
  ssh -n "$host" hostname
