"""The check for machines with a GPU runs through without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

CHECK = Path(__file__).parents[2] / "bench" / "gpu_check.py"


def test_rows_that_need_a_gpu_say_so() -> None:
    """One table, with a line for each row."""
    done = subprocess.run([sys.executable, CHECK, "--rows", "device,nccl"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "|" in line]
    assert ["the device", "NCCL all-reduce, world of 1"] == [row[0] for row in rows[2:]]
    assert {"ok" if torch.cuda.is_available() else "no GPU"} == {row[1] for row in rows[2:]}
