"""The machine on which the bench runs, and the versions of the programs that it compares."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from harness import TORCHRUNX

PACKAGES = ("torch", "accelerate", "deepspeed", "submitit", "ray", "transformers", "ClusterShell")
PROGRAMS = {
    "Open MPI": ("mpirun.openmpi", "--version"),
    "MPICH": ("mpirun.mpich", "--version"),
    "Slurm": ("slurmd", "-V"),
    "pdsh": ("pdsh", "-V"),
    "OpenSSH": ("ssh", "-V"),
}


def machine() -> dict[str, str]:
    """Return what the machine is and how busy it is now."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    return {
        "processor": cpu[1] if cpu else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{int(memory[1]) / 2**20:.0f} GiB" if memory else "?",
        "kernel": platform.release(),
        "load at the start": f"{os.getloadavg()[0]:.1f}",
    }


def versions() -> dict[str, str]:
    """Return the versions of muster and of the other programs that are installed."""
    found = {"Python": platform.python_version(), "muster": commit()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    for name, words in PROGRAMS.items():
        if shutil.which(words[0]):
            said = subprocess.run(words, capture_output=True, text=True)
            number = re.search(r"\d+\.\d[\w.]*", said.stdout + said.stderr)
            found[name] = number[0] if number else "?"
    python = os.environ.get(TORCHRUNX, "")
    if python:
        ask = "import importlib.metadata as m; print(m.version('torchrunx'))"
        said = subprocess.run([python, "-c", ask], capture_output=True, text=True)
        found["torchrunx"] = said.stdout.strip() or "?"
    return found


def commit() -> str:
    """Return muster's version, and the commit if this is a checkout."""
    version = importlib.metadata.version("torchmuster")
    words = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    said = subprocess.run(words, capture_output=True, text=True)
    return f"{version} ({said.stdout.strip()})" if said.returncode == 0 else version
