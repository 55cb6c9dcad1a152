"""How long from the command to the first all-reduce, and until all have ended: muster beside torchrun, in one run.

    python bench/launch.py                       sizes 1, 8 and 32, three times each, medians
    python bench/launch.py --sizes 1,2 --repeat 1
    python bench/launch.py --launchers           every launcher of muster that works on this machine, side by side

The launchers take turns, so that a noisy machine is as noisy for both. Seconds of wall time; `first` is the time at
which the last rank had its sum, `ended` the time at which the command had ended. `restart` is from the SIGKILL of one
of the ranks to the first sum of all of them in the next attempt, at the middle size.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from muster.launchers import LAUNCHERS

HERE = Path(__file__).parent
SCRIPT = str(HERE / "first_sum.py")
BIN = Path(sys.executable).parent


def environment(folder: str) -> dict[str, str]:
    """The environment of every measured command: the same number of threads, runs kept in a folder of the benchmark."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MUSTER", "PET_"))}
    return {**kept, "MUSTER_HOME": folder, "OMP_NUM_THREADS": "1"}


def launch(command: list[str], env: dict[str, str]) -> tuple[float, str]:
    """(seconds until it had ended, what it printed); raises when it failed."""
    began = time.time()
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    took = time.time() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return took, done.stdout


def once(command: list[str], ranks: int, env: dict[str, str]) -> tuple[float, float]:
    """Seconds to the first sum of all ranks, and to the end."""
    began = time.time()
    took, text = launch(command, env)
    times = [float(value) for value in re.findall(r"reduced ([\d.]+)", text)]
    assert len(times) == ranks, f"{len(times)} of {ranks} ranks had a sum:\n{text}"
    return max(times) - began, took


def restart(ranks: int, env: dict[str, str]) -> float:
    """Seconds from the SIGKILL of a rank to the first sum of the next attempt, by muster."""
    command = [str(BIN / "muster"), "run", "-g", str(ranks), "--max-restarts", "1", SCRIPT]
    _, text = launch(command, {**env, "BENCH_KILL": "1"})
    killed = float(re.findall(r"killed ([\d.]+)", text)[0])
    again = [float(value) for value in re.findall(r"reduced ([\d.]+)", text) if float(value) > killed + 0.001]
    return max(again) - killed


def every_launcher(sizes: list[int], repeat: int, env: dict[str, str]) -> None:
    """A table of all launchers: medians of the first sum and of the end, for each size."""
    names = [name for name, row in LAUNCHERS.items() if "local" in row.places]
    print("launcher    " + "".join(f"{f'{size} ranks: first, ended':>28}" for size in sizes))
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for size in sizes:
        for _ in range(repeat):
            for name in names:
                command = [str(BIN / "muster"), "run", "--launcher", name, "-g", str(size), SCRIPT]
                found.setdefault((name, size), []).append(once(command, size, env))
    for name in names:
        cells = [[statistics.median(pair[i] for pair in found[name, size]) for i in (0, 1)] for size in sizes]
        print(f"{name:<12}" + "".join(f"{first:>20.2f}{ended:>8.2f}" for first, ended in cells), flush=True)


def row(size: int, found: dict[str, list[tuple[float, float]]]) -> str:
    """A line of the table: medians, and how many times faster."""
    cells = [f"{size:>5}"]
    for column in (0, 1):
        ours, theirs = (statistics.median(pair[column] for pair in found[name]) for name in ("muster", "torchrun"))
        cells.append(f"{ours:8.2f} {theirs:9.2f} {theirs / ours:6.1f}x")
    return "   ".join(cells)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1,8,32")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--launchers", action="store_true", help="all launchers of muster instead")
    args = parser.parse_args()
    sizes = [int(size) for size in args.sizes.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        env = environment(folder)
        print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
        if args.launchers:
            every_launcher(sizes, args.repeat, env)
            return
        print("ranks      first: muster, torchrun      ended: muster, torchrun")
        for size in sizes:
            found: dict[str, list[tuple[float, float]]] = {"muster": [], "torchrun": []}
            for _ in range(args.repeat):
                for name, options in (("muster", ["run", "-g"]), ("torchrun", ["--standalone", "--nproc-per-node"])):
                    found[name].append(once([str(BIN / name), *options, str(size), SCRIPT], size, env))
            print(row(size, found), flush=True)
        size = max(2, sizes[len(sizes) // 2])
        took = statistics.median(restart(size, env) for _ in range(args.repeat))
        print(f"restart of {size} ranks after a SIGKILL: {took:.2f} s")


if __name__ == "__main__":
    main()
