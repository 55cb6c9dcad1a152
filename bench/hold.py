"""How long from `muster run --on` to the first all-reduce, beside a run without a session; and a call of a function.

    python bench/hold.py                         8 ranks on this machine, five times each, medians
    python bench/hold.py --ranks 2 --repeat 1
    python bench/hold.py --hosts n[1-3] --ranks 2

Both take turns. Seconds of wall time: `first` is the time at which the last rank had its sum, `ended` the time at which
the command had ended; `cpu` is the CPU time of the command itself and its children on this machine. `call` is an empty
function, called a second time from one Python program.
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

options = {"nproc_per_node": int(sys.argv[1]), **({"hosts": sys.argv[2]} if sys.argv[2] else {})}
with muster.hold(**options) as cluster:
    for _ in range(int(sys.argv[3]) + 1):
        began = time.monotonic()
        cluster.run(empty, show_output=False)
        print(time.monotonic() - began)
"""


def cpu() -> float:
    """CPU seconds of all children so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--hosts", default="")
    asked = parser.parse_args()
    count = asked.ranks
    where = ["-H", asked.hosts] if asked.hosts else []
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        env, program = environment(folder), str(BIN / "muster")
        held = [program, "hold", *where, "-g", str(asked.ranks), "--name", "bench"]
        subprocess.run(held, env=env, check=True, stdout=subprocess.DEVNULL)
        try:
            ways = {
                "run": [program, "run", *where, "-g", str(count), SCRIPT],
                "run --on": [program, "run", "--on", "bench", SCRIPT],
            }
            taken: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
            total = asked.ranks * (len(parse_hosts(asked.hosts)) if asked.hosts else 1)
            for _ in range(asked.repeat):
                for way, command in ways.items():
                    before = cpu()
                    first, ended = once(command, total, env)
                    taken[way].append((first, ended, cpu() - before))
        finally:
            subprocess.run([program, "release", "--force", "bench"], env=env, check=True, stdout=subprocess.DEVNULL)
        words = [sys.executable, "-c", CALLS, str(asked.ranks), asked.hosts, str(asked.repeat)]
        calls = [float(line) for line in subprocess.check_output(words, env=env, text=True).split()][1:]
    print(f"{total} ranks, median of {asked.repeat}, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}")
    for way, found in taken.items():
        first, ended, used = (statistics.median(values) for values in zip(*found))
        print(f"{way:10} first {first:.2f}  ended {ended:.2f}  cpu {used:.2f}")
    print(f"{'call':10} {statistics.median(calls):.2f}")


if __name__ == "__main__":
    main()
