"""How long on several hosts of a lab, in one run, on one machine.

    python bench/hosts.py                launch to the first all-reduce, 3 hosts of 2 and 8 ranks: muster over ssh,
                                         beside srun + torchrun
    python bench/hosts.py --fan-out 64   how long until `true` has run on so many hosts: muster, pdsh, clush

The commands take turns. All hosts share the cores of this machine, so it is the work that is measured, not the wait.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from launch import BIN, SCRIPT, environment

from muster.lab import Lab

ROOT = Path(__file__).parents[1]

PORT = 29511


def once(lab: Lab, command: list[str], env: dict[str, str], ranks: int) -> tuple[float, float]:
    """Seconds to the first sum of all ranks (0 when there are none), and to the end."""
    began = time.time()
    done = lab.run("head", command, env=env, cwd="/", timeout=600)
    took = time.time() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    times = [float(value) for value in re.findall(r"reduced ([\d.]+)", done.stdout)]
    assert len(times) == ranks, f"{len(times)} of {ranks} ranks had a sum:\n{done.stdout}"
    return (max(times) - began if ranks else 0.0), took


def first_sum(lab: Lab, env: dict[str, str], each: int, repeat: int) -> None:
    """Print a line of the first table."""
    nodes = len(lab.nodes)
    torchrun = [str(BIN / "torchrun"), f"--nnodes={nodes}", f"--nproc-per-node={each}", "--rdzv-backend=c10d"]
    torchrun += [f"--rdzv-endpoint=n1:{PORT}", SCRIPT]
    lines = {
        "muster": [str(BIN / "muster"), "run", "-H", f"n[1-{nodes}]", "-g", str(each), SCRIPT],
        "torchrun": ["srun", f"-N{nodes}", "--ntasks-per-node=1", *torchrun],
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in lines}
    for _ in range(repeat):
        for name, line in lines.items():
            found[name].append(once(lab, line, env, nodes * each))
    cells = [f"{nodes} x {each:<3}"]
    for column in (0, 1):
        ours, theirs = (statistics.median(pair[column] for pair in found[name]) for name in lines)
        cells.append(f"{ours:8.2f} {theirs:9.2f} {theirs / ours:6.1f}x")
    print("   ".join(cells), flush=True)


def fan_out(lab: Lab, env: dict[str, str], repeat: int) -> None:
    """Print how long each takes to run `true` on all nodes."""
    every = f"n[1-{len(lab.nodes)}]"
    ssh = "-o LogLevel=ERROR"
    lines = {
        "muster": [str(BIN / "muster"), "run", "-H", every, "-g", "1", "-q", "--", "true"],
        "pdsh": ["pdsh", "-R", "ssh", "-f", "64", "-w", every, "true"],
        "clush": ["clush", "-f", "64", "-o", ssh, "-w", every, "true"],
    }
    for name, line in lines.items():
        if name != "muster" and shutil.which(name) is None:
            print(f"{name}: not installed")
            continue
        took = statistics.median(once(lab, line, env, 0)[1] for _ in range(repeat))
        print(f"{name:<8} {took:6.2f} s", flush=True)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", default="2,8")
    parser.add_argument("--fan-out", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Lab(nodes=args.fan_out or 3, shared=[ROOT, folder]) as lab:
        env = {**lab.environment(), **environment(folder), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
        env["SLURM_CONF"] = lab.folder.slurm_conf
        if args.fan_out:
            fan_out(lab, env, args.repeat)
            return
        print("hosts     first: muster, srun + torchrun   ended: muster, srun + torchrun")
        for each in args.each.split(","):
            first_sum(lab, env, int(each), args.repeat)


if __name__ == "__main__":
    main()
