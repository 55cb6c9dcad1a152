"""Record what ranks do that hang: `python record.py [NAME…]` runs the programs of `hang.py` and keeps their snapshots.

Another script is named as NAME=PATH.

A snapshot is written to `NAME.json` here, made smaller: the last collectives, no idle threads, short paths.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from muster.client.inspection import inspect
from muster.core.inspection import Inspection, Snapshot
from muster.core.model import as_json
from muster.rundir.run import Run

HERE = Path(__file__).parent
RANKS = 4
SETTLED = 3.0
"""Seconds between two looks. The snapshot is the second one, once both show the same stacks."""


def main() -> None:
    """Record all programs, or those named."""
    source = (HERE / "hang.py").read_text()
    helpers = ("train", "step", "ddp", "spin", "save", "read_shard")
    known = [name for name in re.findall(r"^def (\w+)\(\) -> None:$", source, re.MULTILINE) if name not in helpers]
    for name in sys.argv[1:] or known:
        record(name)


def record(name: str) -> None:
    """Run one program and write its snapshot."""
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "MUSTER_HOME": f"{folder}/home", "HANG_FOLDER": folder, "OMP_NUM_THREADS": "2"}
        muster = Path(sys.executable).parent / "muster"
        name, _, path = name.partition("=")
        words = [str(muster), "run", "-g", str(RANKS), "--timeout", "120", path or str(HERE / "hang.py"), name]
        where = os.path.dirname(path) or None
        process = subprocess.Popen(
            words, env=env, cwd=where, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            run = started(Path(folder) / "home" / "runs")
            found = settled(run)
            began = float(run.job["time"])
            ends = [event for event in run.events() if event["event"] == "ended"]
            keep(name, found, began, ends, folder, where or str(HERE))
        finally:
            subprocess.run([str(muster), "kill", "last"], env=env, capture_output=True, check=False)
            process.communicate()
    print(name)


def started(runs: Path) -> Run:
    """Return the run once its ranks have been started and have torch."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in runs.glob("*") if runs.exists() else ():
            run = Run(path)
            if (path / "events.jsonl").exists() and any(event["event"] == "started" for event in run.events()):
                return run
        time.sleep(0.1)
    raise SystemExit("the ranks did not start")


def settled(run: Run) -> Snapshot:
    """Return what the ranks do once they hang; what they do after a while, if they do not."""
    before: list[str] = []
    for _ in range(12):
        time.sleep(SETTLED)
        found = inspect(run)
        now = [re.sub(r"0x\w+|Current ", "", one.stacks) for one in found.inspections]
        if now == before and sum(map(bool, now)) >= RANKS - 1:
            break
        before = now
    return found


def keep(name: str, found: Snapshot, began: float, ends: list[dict[str, Any]], folder: str, code: str) -> None:
    """Write a snapshot, with only what matters."""
    found = found._replace(inspections=tuple(smaller(one) for one in found.inspections))
    data = {"began": began, "ends": ends, "snapshot": slim(as_json(found))}
    text = json.dumps(data, indent=None, separators=(",", ":"))
    text = text.replace(sys.prefix, "/venv").replace(code, "/home/ann").replace(folder, "/scratch")
    text = re.sub(re.escape(sys.base_prefix) + r"/lib/python", "/usr/lib/python", text)
    (HERE / f"{name}.json").write_text(text + "\n")


def smaller(one: Inspection) -> Inspection:
    """Leave out collectives of long ago, and threads that only wait."""
    threads = one.threads[:1] + tuple(thread for thread in one.threads[1:] if thread.state != "S")
    return one._replace(collectives=one.collectives[-8:], threads=threads)


def slim(value: Any) -> Any:
    """Leave out empty fields."""
    if isinstance(value, dict):
        return {name: slim(item) for name, item in value.items() if name in _REQUIRED or item not in _EMPTY}
    return [slim(item) for item in value] if isinstance(value, list) else value


_REQUIRED = ("rank", "node", "when", "attempt", "group", "seq", "op", "pid")
_EMPTY: tuple[Any, ...] = ("", [], 0, None)


if __name__ == "__main__":
    main()
