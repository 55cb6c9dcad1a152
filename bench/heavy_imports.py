"""Heavy imports (transformers' Trainer) on several ranks: muster beside torchrun, in one run.

    python bench/heavy_imports.py                8 ranks, three times each
    python bench/heavy_imports.py --ranks 2 --repeat 1

`first` is the wall time at which the last rank had its sum, `CPU` the user and system time of all processes. A run
before the measured ones makes the record by which muster imports once what the script imports first. The launchers take
turns.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import resource
import statistics
import tempfile
from pathlib import Path

from launch import BIN, environment, once

SCRIPT = str(Path(__file__).parent / "trainer_sum.py")
COMMANDS = {
    "muster": [str(BIN / "muster"), "run", "-g"],
    "muster --no-auto-preload": [str(BIN / "muster"), "run", "--no-auto-preload", "-g"],
    "torchrun": [str(BIN / "torchrun"), "--standalone", "--nproc-per-node"],
}


def cpu_of_children() -> float:
    """Seconds of user and system time of all processes below this one that have ended."""
    try:
        while True:
            os.wait()  # what their parents have left: this process is a subreaper
    except ChildProcessError:
        pass
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        env = environment(folder)
        once([*COMMANDS["muster"], str(args.ranks), SCRIPT], args.ranks, env)
        for _ in range(args.repeat):
            for name, command in COMMANDS.items():
                before = cpu_of_children()
                first, _ = once([*command, str(args.ranks), SCRIPT], args.ranks, env)
                found[name].append((first, cpu_of_children() - before))
    load = os.getloadavg()[0]
    print(f"{platform.platform()}, {os.cpu_count()} cores, load {load:.1f}, Python {platform.python_version()}")
    print(f"{args.ranks} ranks{'first':>28}{'CPU':>10}   of torchrun's CPU")
    for name, pairs in found.items():
        first, cpu = (statistics.median(pair[index] for pair in pairs) for index in (0, 1))
        ratios = [pair[1] / other[1] for pair, other in zip(pairs, found["torchrun"])]
        print(f"{name:<26}{first:>9.2f} s{cpu:>8.2f} s{statistics.median(ratios):>11.2f}")


if __name__ == "__main__":
    main()
