"""Check muster on a machine with a GPU and a torch with CUDA: one table, at most 6 minutes, no network.

    make gpu-check                               with the Python of the active environment
    PYTHONPATH=src python3 bench/gpu_check.py --rows device,fork

Without a GPU the rows that need one say so, and the others run on the CPU. The exit status is 1 if a row failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
from muster.launchers import LAUNCHERS

HERE = Path(__file__).parent
ROOT = HERE.parent
RANK = str(HERE / "gpu" / "rank.py")
HELD = "held"
"""The name of the script that waits."""

WHOLE, PART = 350.0, 100.0
"""Seconds for everything, and for one command."""


NOTHING: Mapping[str, str] = {}


class Failed(Exception):
    """A row does not show what it should."""


class Done(NamedTuple):
    """A command that has ended."""

    status: int
    out: str
    took: float
    began: float

    @property
    def found(self) -> list[dict[str, Any]]:
        """The lines of rank.py, one for each rank."""
        return [json.loads(line) for line in re.findall(r"found (\{.*\})", self.out)]

    def last(self, lines: int = 3) -> str:
        """The end of what it printed."""
        return " / ".join(self.out.strip().splitlines()[-lines:])


class Check:
    """The machine, and what is run on it."""

    def __init__(self, home: str) -> None:
        self.until = time.monotonic() + WHOLE
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MUSTER", "PET_"))}
        path = os.pathsep.join(filter(None, (str(ROOT / "src"), kept.get("PYTHONPATH"))))
        self.env = {**kept, "MUSTER_HOME": home, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self.home = Path(home)
        self.gpus = self.count_gpus()

    def run(self, *command: str, **env: str) -> Done:
        """Run a command to its end; what it prints is in one text."""
        left = min(PART, self.until - time.monotonic())
        if left <= 0:
            raise Failed("no time left")
        began, at = time.time(), time.monotonic()
        process = subprocess.Popen(
            command,
            env={**self.env, **env},
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            out, _ = process.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            process.terminate()  # muster then ends its ranks
            try:
                process.communicate(timeout=45)
            except subprocess.TimeoutExpired:
                process.kill()
            raise Failed(f"no end after {left:.0f} s") from None
        return Done(process.returncode, out, time.monotonic() - at, began)

    def muster(self, *words: str, **env: str) -> Done:
        """Run a command of muster."""
        return self.run(sys.executable, "-m", "muster", *words, **env)

    def ranks(self, env: Mapping[str, str] = NOTHING) -> list[dict[str, Any]]:
        """Run rank.py on one rank, which must report."""
        done = self.muster("run", "-g", "1", RANK, **env)
        if done.status or len(done.found) != 1:
            raise Failed(f"exit status {done.status}: {done.last()}")
        return done.found

    def count_gpus(self) -> int:
        """The GPUs that torch sees in a process of its own."""
        done = self.run(sys.executable, "-c", "import torch; print('gpus', torch.cuda.device_count())")
        found = re.search(r"gpus (\d+)", done.out)
        if found is None:
            raise SystemExit(f"error: cannot import torch: {done.last()}")
        return int(found[1])

    def newest(self) -> Path:
        """The newest run directory."""
        return sorted((self.home / "runs").iterdir())[-1]

    def event(self, kind: str) -> dict[str, Any]:
        """The first event of this kind in the newest run."""
        lines = (self.newest() / "events.jsonl").read_text().splitlines()
        return next((event for event in map(json.loads, lines) if event["event"] == kind), {})


# ---- rows -----------------------------------------------------------------------------------------------------------


def device(check: Check) -> str:
    """The GPU, its driver, and torch."""
    text = "import torch; print('T', torch.__version__, torch.version.cuda, torch.cuda.get_device_name(0))"
    smi = check.run("nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader")
    return f"{check.run(sys.executable, '-c', text).out.rpartition('T ')[2].strip()}; {smi.out.strip()}"


def fork(check: Check) -> str:
    """A forked rank uses CUDA, which the fork server has not initialized."""
    (found,) = check.ranks()
    if not check.event("warm").get("fork"):
        raise Failed("ranks were not forked: " + check.muster("show", "last").last(5))
    if found["initialized"] or found["sum"] != 1 or found.get("product", 64**3) != 64**3:
        raise Failed(json.dumps(found))
    return "forked; CUDA initialized by the rank, its product is right" if check.gpus else "forked; sum by gloo"


def device_count(check: Check) -> str:
    """`device_count` before CUDA is initialized, with all GPUs, one, and none."""
    told = []
    for visible, expected in ((None, check.gpus), ("0", 1)):
        env: dict[str, str] = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        (found,) = check.ranks(env)
        if (found["count"], found["initialized"]) != (expected, False):
            raise Failed(f"CUDA_VISIBLE_DEVICES={visible}: {json.dumps(found)}")
        told.append(f"{found['count']} with {visible or 'none set'}")
    hidden = check.muster("run", "-g", "1", RANK, CUDA_VISIBLE_DEVICES="")
    if not hidden.found or hidden.found[0]["count"]:
        raise Failed(f"CUDA_VISIBLE_DEVICES is empty: {hidden.last()}")
    return ", ".join([*told, "0 with an empty list"])


def launchers(check: Check) -> str:
    """CUDA_VISIBLE_DEVICES and the number of GPUs under each launcher that is installed."""
    told: list[str] = []
    failed: list[str] = []
    for name in LAUNCHERS:
        done = check.muster("run", "-g", "1", "--launcher", name, RANK)
        if done.status == 2 and not done.found:
            told.append(f"{name}: not here")
        elif done.status or not done.found:
            failed.append(f"{name}: exit status {done.status}: {done.last(2)}")
        else:
            (found,) = done.found
            same = found["count"] == check.gpus
            (told if same else failed).append(f"{name}: {found['count']} ({found['visible'] or 'unset'})")
    if failed:
        raise Failed("; ".join(failed))
    return "; ".join(told)


def nccl(check: Check) -> str:
    """An all-reduce by NCCL in a world of 1."""
    (found,) = check.ranks()
    if found["sum"] != 1:
        raise Failed(json.dumps(found))
    return "the sum is right"


def two_on_one(check: Check) -> str:
    """Two ranks on one GPU are refused by NCCL, and muster says what that means."""
    done = check.muster("run", "-g", "2", "--timeout", "60", RANK, CUDA_VISIBLE_DEVICES="0")
    told = [line for line in done.out.splitlines() if re.search("same GPU|share a GPU|[Dd]uplicate GPU", line)]
    if not done.status or not told:
        raise Failed(f"exit status {done.status}: {done.last()}")
    ours = [line for line in told if line.startswith(("muster", "hint"))] or told
    return f"exit status {done.status}: {ours[-1].strip()}"


def why(check: Check) -> str:
    """The flight recorder of NCCL, read from a rank that waits."""
    held_script = str(check.home / f"{HELD}.py")
    Path(held_script).write_text(Path(RANK).read_text())
    process = subprocess.Popen(
        [sys.executable, "-m", "muster", "run", "-q", "-g", "1", held_script, "hold"],
        env=check.env,
        cwd=check.home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        limit = time.monotonic() + min(PART, check.until - time.monotonic())
        held = f"runs/*-{HELD}/attempt_0/rank_00000.out"
        while not any("found" in path.read_text() for path in check.home.glob(held)):
            if process.poll() is not None or time.monotonic() > limit:
                raise Failed("the rank did not start")
            time.sleep(0.1)
        stacks = check.muster("stacks", "last")
        if f"{HELD}.py" not in stacks.out:
            raise Failed(f"no stack: {stacks.last()}")
        return " / ".join(filter(None, check.muster("why", "last").out.split("\n")[:3]))
    finally:
        process.terminate()
        process.wait(45)


def doctor(check: Check) -> str:
    """`muster doctor` on this machine."""
    done = check.muster("doctor")
    lines = [line.strip() for line in done.out.splitlines() if check.gpus and "gpu" in line.lower()]
    if done.status not in (0, 1):
        raise Failed(f"exit status {done.status}: {done.last()}")
    return f"exit status {done.status}: {(lines or [done.last(1)])[0]}"


def self_test(check: Check) -> str:
    """`muster check` with one rank."""
    done = check.muster("check", "-g", "1", *(["--backend", "nccl"] if check.gpus else []))
    if done.status:
        raise Failed(f"exit status {done.status}: {done.last()}")
    passed = [line.strip() for line in done.out.splitlines() if "passed" in line]
    return (passed or [done.last(1)])[-1]


def train(check: Check) -> str:
    """A language model of 40 million parameters in bf16, on random weights."""
    size = ["--layers", "8", "--width", "512", "--heads", "8", "--batch-size", "32", "--num-epochs", "60"]
    place = ["--save-dir", str(check.home / "outputs"), "--experiment-name", "gpu"]
    words = [*size, *place, "--log-freq", "20", "--ckpt-freq", "100000"]
    done = check.muster("run", "-g", "1", str(ROOT / "examples" / "train_llm.py"), *words)
    speeds = [int(number) for number in re.findall(r"(\d+) tokens/s", done.out)]
    if done.status or not speeds:
        raise Failed(f"exit status {done.status}: {done.last()}")
    loss = re.findall(r"loss ([\d.]+)", done.out)
    return f"{max(speeds):,} tokens/s, loss {loss[0]} to {loss[-1]}, {done.took:.0f} s in all"


def beside_torchrun(check: Check) -> str:
    """Seconds from the command to the first all-reduce, twice each, in turn; the better one."""
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(2):
        for name, times in (("muster", ours), ("torch.distributed.run", theirs)):
            words = ["run", "-g", "1"] if name == "muster" else ["--standalone", "--nproc-per-node", "1"]
            done = check.run(sys.executable, "-m", name, *words, RANK)
            if done.status or not done.found:
                raise Failed(f"{name}, exit status {done.status}: {done.last()}")
            times.append(done.found[0]["reduced"] - done.began)
    return f"muster {min(ours):.2f} s, torchrun {min(theirs):.2f} s, {min(theirs) / min(ours):.1f} times"


class Row(NamedTuple):
    """A row of the table."""

    title: str
    call: Callable[[Check], str]
    needs_gpu: bool = True


ROWS = {
    "device": Row("the device", device),
    "fork": Row("fork before CUDA is initialized", fork),
    "count": Row("device_count in a forked rank", device_count),
    "nccl": Row("NCCL all-reduce, world of 1", nccl),
    "two": Row("2 ranks on one GPU are refused", two_on_one),
    "why": Row("stacks and why of a rank with NCCL", why),
    "train": Row("train_llm in bf16", train),
    "doctor": Row("doctor", doctor, False),
    "check": Row("check", self_test, False),
    "first": Row("first all-reduce, 1 rank", beside_torchrun, False),
    "launchers": Row("GPUs seen under each launcher", launchers),
}


def results(check: Check, names: list[str], anyway: bool) -> Iterator[tuple[str, str, str]]:
    """Yield (title, status, text) of each row."""
    for name in names:
        row = ROWS[name]
        if row.needs_gpu and not check.gpus and not anyway:
            yield row.title, "no GPU", ""
            continue
        try:
            yield row.title, "ok", row.call(check)
        except Failed as error:
            yield row.title, "FAILED", str(error)
        except Exception as error:  # a row must not cost the others
            yield row.title, "FAILED", f"{type(error).__name__}: {error}"


def main() -> int:
    """Run the rows, and print the table as they end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", default=",".join(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--anyway", action="store_true", help="try rows that need a GPU without one, too")
    args = parser.parse_args()
    names = [name for name in args.rows.split(",") if name]
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        parser.error(f"unknown row: {unknown[0]}")
    failed = False
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as home:
        began = time.monotonic()
        check = Check(home)
        print(f"| {'what':<35} | result | found |\n|{'-' * 37}|--------|-------|", flush=True)
        for title, status, text in results(check, names, args.anyway):
            failed = failed or status == "FAILED"
            found = re.sub(r"\s+", " ", text).replace("|", "/")[:300]
            print(f"| {title:<35} | {status:<6} | {found} |", flush=True)
        print(f"{time.monotonic() - began:.0f} s on {os.uname().nodename}, {os.cpu_count()} cores, {check.gpus} GPUs")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
