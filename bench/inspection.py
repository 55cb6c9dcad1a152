"""What the server costs that answers questions about a rank: 4,000 all-reduces on 2 ranks, in pairs of runs.

    python bench/inspection.py [PAIRS] [--end]

Each pair has a run with the server of torch in each rank, as always, and one in which the script takes it away before
its process group is made, in turn. On a busy machine only the CPU time tells something. A third kind is inspected
5 times a second meanwhile. `--end` measures instead when muster has ended after a rank has failed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MUSTER = Path(sys.executable).parent / "muster"

SCRIPT = """
import os, sys, time, torch, torch.distributed as dist
if "without" in sys.argv:
    import torch.distributed.c10d_logger as logger
    from torch.monitor import _WaitCounter
    logger._WaitCounter = _WaitCounter
dist.init_process_group("gloo")
x = torch.ones(1024)
for _ in range(200):
    dist.all_reduce(x)
dist.barrier()
began, used = time.perf_counter(), time.process_time()
for _ in range(4000):
    dist.all_reduce(x)
    x.div_(2)
if dist.get_rank() == 0:
    print("seconds", time.perf_counter() - began, time.process_time() - used)
dist.destroy_process_group()
"""

FAILS = """
import sys, time, torch.distributed as dist
dist.init_process_group("gloo")
dist.barrier()
if dist.get_rank() == 0:
    time.sleep(0.5)
    print("seconds", time.time(), flush=True)
    sys.exit(3)
time.sleep(60)
"""


def numbers_of(output: str) -> list[float]:
    """Return the numbers after the word `seconds`."""
    return [float(word) for word in output.partition("seconds")[2].splitlines()[0].split()]


def reduce_seconds(script: Path, kind: str) -> list[float]:
    """Run the script; return the seconds of its all-reduces, and the CPU time of rank 0 meanwhile."""
    words = [str(MUSTER), "run", "-g", "2", str(script), kind]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        if kind == "inspected":
            from muster.client.inspection import inspect
            from muster.errors import MusterError
            from muster.rundir.finding import list_runs
            from muster.rundir.store import store_at

            store = store_at(None, dict(os.environ))
            while process.poll() is None:
                time.sleep(0.2)
                try:
                    inspect(list_runs(store)[-1])
                except (MusterError, IndexError):
                    continue
        assert process.stdout is not None
        return numbers_of(process.stdout.read())


def end_seconds(script: Path) -> float:
    """Run the script, whose rank 0 fails; return the seconds from then until muster has ended."""
    done = subprocess.run([str(MUSTER), "run", "-g", "4", str(script)], capture_output=True, text=True)
    return time.time() - numbers_of(done.stdout)[0]


def main() -> None:
    """Measure, and print medians."""
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    pairs = numbers[0] if numbers else 10
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MUSTER_HOME"] = f"{folder}/home"
        script = Path(folder, "script.py")
        if "--end" in sys.argv:
            script.write_text(FAILS)
            print(f"end: median {statistics.median(end_seconds(script) for _ in range(pairs)):.3f} s")
            return
        script.write_text(SCRIPT)
        kinds = ("with", "without", "inspected")
        found: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
        for pair in range(pairs):
            for kind in kinds if pair % 2 else reversed(kinds):
                found[kind].append(reduce_seconds(script, kind))
        for at, what in enumerate(("wall", "CPU")):
            for kind in kinds:
                seconds = [times[at] for times in found[kind]]
                print(f"{what:4} {kind:9} median {statistics.median(seconds):.3f} s, least {min(seconds):.3f} s")
            ratios = [ours[at] / plain[at] for ours, plain in zip(found["with"], found["without"])]
            print(f"{what:4} with / without, in pairs: median {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
