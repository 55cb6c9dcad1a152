"""The bench measures, at its smallest sizes: for its correctness, not for its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_rows_measure_what_they_say(tmp_path: Path) -> None:
    """One launch beside torchrun, commands, a simulated cluster, output of which no line is lost."""
    results, page = tmp_path / "results.json", tmp_path / "page.md"
    rows = "launch,death,controller,commands,ps,logs"
    words = ["--small", "--rows", rows, "--programs", "torchrun,torchrun --tee 3", "--no-lab"]
    command = [sys.executable, str(ROOT / "bench" / "run.py"), *words, "--results", str(results), "--write", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    measured = [tuple(each[:4]) for each in json.loads(results.read_text())["measurements"]]
    values = {tuple(each[:4]): each[4] for each in json.loads(results.read_text())["measurements"]}
    assert len(measured) == len(values), "one round, one value of each"
    for program in ("muster", "torchrun"):
        assert 0 < values["launch", "2 ranks", program, "first"] < values["launch", "2 ranks", program, "ended"]
        assert 0 < values["death", "2 ranks", program, "death"]
    assert 0 < values["controller", "4 nodes × 8", "muster", "report"] < 25
    assert 0 < values["controller", "4 nodes × 8", "muster", "memory"]
    assert {"muster", "muster ps", "muster plan"} <= {each[2] for each in measured if each[0] == "commands"}
    assert 0 < values["ps", "20 runs", "muster logs", "time"]
    assert values["logs", "2 × 1 MB of short lines", "muster", "lines"] == 0
    text = page.read_text()
    assert "## Launch on one machine\n" in text and "| torchrun |" in text
