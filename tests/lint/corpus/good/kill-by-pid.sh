#!/bin/bash
python serve.py &
server=$!
trap 'kill $server' EXIT
python client.py
pkill -P $$ || true
