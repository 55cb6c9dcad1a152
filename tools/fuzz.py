"""Runs the fuzz tests with random seeds until the time is up: `tools/fuzz.py [SECONDS]`, by default an hour.

It stops at the first failure, and prints the smallest example that fails and the command that replays it.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> int:
    """Run rounds of all fuzz tests; return 1 if one fails."""
    until = time.monotonic() + float(sys.argv[1] if len(sys.argv) > 1 else 3600)
    env = {**os.environ, "MUSTER_FUZZ": "long"}
    rounds = 0
    while time.monotonic() < until:
        seed = random.SystemRandom().randrange(1 << 32)
        words = ["-q", "-x", "--timeout=0", f"--hypothesis-seed={seed}", "tests/fuzz"]
        print(f"round {rounds + 1}: MUSTER_FUZZ=long python -m pytest {' '.join(words)}", flush=True)
        try:
            left = max(1.0, until - time.monotonic())
            done = subprocess.run([sys.executable, "-m", "pytest", *words], cwd=ROOT, env=env, timeout=left)
        except subprocess.TimeoutExpired:
            break
        if done.returncode:
            print(f"failed with seed {seed}; the line above that begins with `round` replays it", file=sys.stderr)
            return 1
        rounds += 1
    print(f"time is up after {rounds} complete {'round' if rounds == 1 else 'rounds'}: no failure")
    return 0


if __name__ == "__main__":
    sys.exit(main())
