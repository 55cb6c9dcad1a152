"""What idle ranks cost: the memory of forked and of plain ones, and the work of watching many.

    python bench/idle.py                          32 ranks for memory, 128 for the work of watching
    python bench/idle.py --ranks 8 --watched 16

PSS counts a page that n processes share as 1/n of a page in each, so the sum over all is what they really take.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BIN = Path(sys.executable).parent
IDLE = "import torch, torch.distributed, time; print('idle', flush=True); time.sleep(600)"


def start(launcher: str, ranks: int, env: dict[str, str], folder: str) -> subprocess.Popen[bytes]:
    """Start idle ranks; returns when all are."""
    script = Path(folder) / "idle.py"
    script.write_text(IDLE)
    command = [str(BIN / "muster"), "run", "-g", str(ranks), "--launcher", launcher, "--quiet", str(script)]
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        runs = sorted(Path(env["MUSTER_HOME"]).glob("runs/*/attempt_0/*.out"))
        if sum(path.stat().st_size > 0 for path in runs) == ranks:
            return process
        if process.poll() is not None:
            raise SystemExit(process.stderr.read().decode() if process.stderr else "it ended")
        time.sleep(0.05)
    raise SystemExit(f"{ranks} ranks were not there after 300 s")


def family(root: int) -> list[int]:
    """A process and all that descend from it."""
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").iterdir():
            queue += [int(child) for child in (task / "children").read_text().split()]
    return found


def pss(pid: int) -> float:
    """Proportional set size in MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu(pid: int) -> float:
    """Seconds of processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a run that this benchmark started."""
    process.terminate()
    process.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=32)
    parser.add_argument("--watched", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=20)
    args = parser.parse_args()
    for launcher in ("fork", "exec"):
        with tempfile.TemporaryDirectory() as folder:
            env = {**os.environ, "MUSTER_HOME": folder + "/muster", "OMP_NUM_THREADS": "1"}
            process = start(launcher, args.ranks, env, folder)
            total = sum(pss(pid) for pid in family(process.pid))
            print(f"{args.ranks} idle ranks by {launcher}: {total:.0f} MB (PSS of all, muster and its agent included)")
            end(process)
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "MUSTER_HOME": folder + "/muster", "OMP_NUM_THREADS": "1"}
        process = start("fork", args.watched, env, folder)
        watchers = [process.pid, *(pid for pid in family(process.pid) if pid in children(process.pid))]
        before = sum(map(cpu, watchers))
        time.sleep(args.seconds)
        used = sum(map(cpu, watchers)) - before
        print(f"watching {args.watched} idle ranks: {100 * used / args.seconds:.2f} % of a core (muster and its agent)")
        end(process)


def children(pid: int) -> list[int]:
    """The direct children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


if __name__ == "__main__":
    main()
