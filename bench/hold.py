"""How long from `muster run --on` to the first all-reduce, beside a run without a session; and a call of a function.

    python bench/hold.py                         8 ranks on this machine and an empty function, five times each, medians
    python bench/hold.py --ranks 2 --repeat 1
    python bench/hold.py --hosts n[1-3]          also 2 ranks on each of these hosts, over ssh

One line for each. Seconds of wall time: `first` is the time at which the last rank had its sum, `ended` the time at
which the command had ended; `cpu` is the CPU time of the command itself and its children on this machine, but for those
of the session. `cold` is the first sum of a run without a session; both take turns. `call` is an empty function that is
called again and again from one Python program, the first call not counted.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from launch import BIN, SCRIPT, environment, once

from muster.core.hostlist import parse_hosts

CALLS = """
import os, sys, time
import muster

def empty():
    return None

with muster.hold(nproc_per_node=int(sys.argv[1])) as cluster:
    for _ in range(int(sys.argv[2]) + 1):
        began = time.monotonic()
        cluster.run(empty, show_output=False)
        print(time.monotonic() - began)
"""


def cpu() -> float:
    """CPU seconds of all children so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(where: list[str], ranks: int, total: int, repeat: int, env: dict[str, str]) -> str:
    """Return the medians of runs on a session of `total` ranks, `ranks` on each host."""
    program = str(BIN / "muster")
    held = [program, "hold", *where, "-g", str(ranks), "--name", "bench"]
    subprocess.run(held, env=env, check=True, stdout=subprocess.DEVNULL)
    warm, cold = [], []
    try:
        for _ in range(repeat):
            cold.append(once([program, "run", *where, "-g", str(ranks), SCRIPT], total, env)[0])
            before = cpu()
            first, ended = once([program, "run", "--on", "bench", SCRIPT], total, env)
            warm.append((first, ended, cpu() - before))
    finally:
        subprocess.run([program, "release", "--force", "bench"], env=env, check=True, stdout=subprocess.DEVNULL)
    first, ended, used = (statistics.median(values) for values in zip(*warm))
    return f"first {first:.2f}  ended {ended:.2f}  cpu {used:.2f}  cold {statistics.median(cold):.2f}"


def main() -> None:
    """Measure, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--hosts", default="")
    parser.add_argument("--per-host", type=int, default=2)
    asked = parser.parse_args()
    print(f"median of {asked.repeat}, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}", flush=True)
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        env = environment(folder)
        here = measure([], asked.ranks, asked.ranks, asked.repeat, env)
        print(f"{f'{asked.ranks} ranks here':20} {here}", flush=True)
        if asked.hosts:
            hosts, each = len(parse_hosts(asked.hosts)), asked.per_host
            there = measure(["-H", asked.hosts], each, hosts * each, asked.repeat, env)
            print(f"{f'{hosts} x {each} over ssh':20} {there}", flush=True)
        words = [sys.executable, "-c", CALLS, str(asked.ranks), str(asked.repeat)]
        calls = [float(line) for line in subprocess.check_output(words, env=env, text=True).split()][1:]
        print(f"{f'call, {asked.ranks} ranks here':20} {statistics.median(calls):.2f}")


if __name__ == "__main__":
    main()
