"""Run every launcher locally, over ssh and in Slurm on the lab: `make matrix` writes docs/matrix.md.

distributed_sum.py with 2 ranks on each of 2 nodes (on one machine: 2 ranks), each cell one run.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from muster.lab import Lab
from muster.launchers import LAUNCHERS

ROOT = Path(__file__).parents[1]
WHERE = {"local": [], "ssh": ["--hosts", "n1,n2"], "slurm": ["--slurm", "--nnodes", "2"]}


def cell(lab: Lab, launcher: str, place: str, home: str) -> str:
    """Run once; return the time, `refused`, or what failed."""
    line = ["-m", "muster", "run", "--quiet", "--launcher", launcher, *WHERE[place], "-g", "2"]
    env = {**lab.environment(), "MUSTER_HOME": home, "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    argv = [sys.executable, *line, str(ROOT / "examples" / "distributed_sum.py")]
    done = lab.run("head", argv, env=env, cwd=str(ROOT), timeout=300)
    took = time.monotonic() - began
    newest = sorted(Path(home, "runs").iterdir())[-1] if Path(home, "runs").exists() else None
    if place not in LAUNCHERS[launcher].places:
        return "refused" if done.returncode == 2 and "is not available here" in done.stderr else "NOT REFUSED"
    log = newest / "attempt_0" / "rank_00000.out" if newest else None
    ranks = 2 if place == "local" else 4
    expected = f"the sum of 0 to {ranks - 1} is {ranks * (ranks - 1) // 2}, as it should be"
    if done.returncode == 0 and log is not None and expected in log.read_text():
        return f"{took:.1f} s"
    print(done.stderr, file=sys.stderr)
    return f"FAILED ({done.returncode})"


def main() -> int:
    """Print and write the table; return 1 if a cell failed."""
    names = sys.argv[1:] or list(LAUNCHERS)
    rows = {}
    with tempfile.TemporaryDirectory() as home, Lab(shared=[ROOT, home]) as lab:
        for name in names:
            rows[name] = [cell(lab, name, place, home) for place in WHERE]
            print(f"{name:<12}" + "".join(f"{text:<14}" for text in rows[name]), flush=True)
    if names == list(LAUNCHERS):
        lines = [
            "# Launcher timings",
            "",
            "Time from the command until it exits: `distributed_sum.py` with 2 ranks on each of 2 nodes (on this",
            "machine 2 ranks), measured with `make matrix` on the lab, where all hosts share 2 slow cores.",
            "",
            "| launcher | this machine | ssh | Slurm |",
            "|---|---|---|---|",
            *(f"| `{name}` | {' | '.join(cells)} |" for name, cells in rows.items()),
        ]
        (ROOT / "docs" / "matrix.md").write_text("\n".join(lines) + "\n")
    return int(any("FAILED" in text or "NOT" in text for cells in rows.values() for text in cells))


if __name__ == "__main__":
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.exit(main())
