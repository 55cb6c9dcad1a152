"""An environment to hosts that share nothing: `--ship-env` beside `rsync -a` to each host, in one run.

    python bench/ship_env.py --python /path/to/venv/bin/python           three hosts of a lab, one turn
    python bench/ship_env.py --python … --hosts 3 --repeat 3

Seconds of wall time on the lab of this machine. Its hosts share cores and memory, so the network is faster and the
cores are fewer than in a cluster. `run` is a whole `muster run` of `print()` on each host: the first one sends, the
second finds everything there, and the third sends one changed file. `plain` is the same run with an environment that
all hosts have. rsync goes to one host after another, then to all at once. The load of the machine is printed in each
line, because it decides more than anything else.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from muster import environments
from muster.controller import env_shipping
from muster.lab import Lab


def timed(name: str, work: Callable[[], object]) -> None:
    """Print how long it takes."""
    load = os.getloadavg()[0]
    began, cpu = time.monotonic(), os.times()
    work()
    after = os.times()
    ours = sum(after[:4]) - sum(cpu[:4])
    print(f"{name:<44} {time.monotonic() - began:7.2f} s   cpu here {ours:6.2f} s   load {load:.1f}", flush=True)


class Bench:
    """The hosts of a lab, and a venv of this machine."""

    def __init__(self, lab: Lab, top: Path, python: str):
        self.lab, self.top, self.python = lab, top, python
        self.root = f"{lab.folder.scratch}/envs"
        self.env = {**lab.environment(), "MUSTER_HOME": str(top / "home"), "OMP_NUM_THREADS": "1"}
        (top / "main.py").write_text("print()\n")

    def head(self, argv: Sequence[str]) -> str:
        """Run a command on the head; return what it printed to stderr."""
        done = self.lab.run("head", list(argv), env=self.env, cwd=str(self.top), timeout=1200)
        if done.returncode:
            raise SystemExit(f"{' '.join(argv)} failed:\n{done.stdout}\n{done.stderr}")
        return str(done.stderr)

    def ship(self, *more: str) -> None:
        """Run the script on all hosts."""
        hosts = ",".join(self.lab.nodes)
        line = ("-m", "muster", "run", *more, "--sync", "--launcher", "exec", "-g", "1", "-H", hosts, "main.py")
        said = self.head((sys.executable, *line))
        for text in said.splitlines():
            if "sending" in text or "sent the" in text:
                print(f"    {text}")

    def forget(self) -> None:
        """Remove everything from the hosts."""
        for host in self.lab.nodes:
            self.lab.run(host, ["sh", "-c", f"rm -rf {self.root}"], cwd="/")

    def rsync_each(self) -> None:
        """Copy the venv to one host after another."""
        for host in self.lab.nodes:
            self.rsync([host])

    def rsync(self, hosts: Sequence[str]) -> None:
        """Copy the venv to these hosts at once, to another path."""
        source = str(Path(self.python).parent.parent) + "/"

        def one(host: str) -> None:
            self.head(("rsync", "-a", "--mkpath", source, f"{host}:{self.root}/copy/"))

        with ThreadPoolExecutor(len(hosts)) as pool:
            list(pool.map(one, hosts))


def turn(bench: Bench, changed: Path) -> None:
    """Measure each way once."""
    ship = ("--ship-env", "--env-dir", bench.root, "--python", bench.python)
    hosts = bench.lab.nodes
    timed("run --ship-env, nothing there", lambda: bench.ship(*ship))
    timed("run --ship-env, unchanged", lambda: bench.ship(*ship))
    changed.write_text(f"TIME = {time.time()}\n")
    timed("run --ship-env, one file changed", lambda: bench.ship(*ship))
    timed("run, plain", lambda: bench.ship("--python", sys.executable))
    bench.forget()
    timed("rsync -a, one host after another", bench.rsync_each)
    timed("rsync -a, again, nothing changed", bench.rsync_each)
    bench.forget()
    timed("rsync -a, all hosts at once", lambda: bench.rsync(hosts))
    bench.forget()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="interpreter of a venv that may be changed")
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=1)
    words = parser.parse_args()
    found = environments.find(words.python)
    top = Path(tempfile.mkdtemp(prefix="muster-ship-", dir="/var/lib"))
    try:
        timed("reading it, first time", lambda: environments.read(found, str(top / "records")))
        timed("reading it, unchanged", lambda: environments.read(found, str(top / "records")))
        whole = environments.read(found, str(top / "records"))
        print(f"{len(whole.entries)} files, {whole.size / 1e6:.0f} MB")
        for level in (0, 1):
            sizes: list[int] = []

            def pack(level: int = level, sizes: list[int] = sizes) -> None:
                pieces = environments.pieces(whole, frozenset())
                pace = env_shipping.Pace(2)
                sizes.extend(len(data) for data, _ in env_shipping.packed(pieces, pace, lambda: bool(level)))

            timed(f"packing alone, zlib level {level}, 2 threads", pack)
            print(f"    {sum(sizes) / 1e6:.0f} MB")
        changed = next(Path(found.prefix).glob("lib/python3*/site-packages")) / "changed.py"
        with Lab(nodes=words.hosts, shared_home=False, shared=[top]) as lab:
            for _ in range(words.repeat):
                turn(Bench(lab, top, words.python), changed)
    finally:
        shutil.rmtree(top, ignore_errors=True)


if __name__ == "__main__":
    main()
