"""Measure muster beside other launchers, and write what was measured into the documentation.

    python bench/run.py                                   all rows; the results are kept in bench/results.json
    python bench/run.py --rows launch,logs --repeat 5     some rows; the others keep their results
    python bench/run.py --write                           docs/benchmarks.md and the figures in other pages
    python bench/run.py --small --results /tmp/r.json     whether each row works, at its smallest size
    python bench/run.py --list                            the rows

Programs take turns in each row. Results are kept after each row, so a run may be interrupted.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path

from harness import ROOT, Bench, Failed, Missing
from machine import machine, versions
from page import write_pages
from records import Origin, Results
from rows import ROWS

RESULTS = ROOT / "bench" / "results.json"


def measured(asked: argparse.Namespace, names: list[str]) -> int:
    """Measure rows, keep the results after each; return the number of failures of muster."""
    path = Path(asked.results)
    origin = time.strftime("%Y-%m-%d %H:%M:%S")
    command = shlex.join(["bench/run.py", *sys.argv[1:]])
    about = Origin(origin, command, asked.small, machine(), versions())
    failures = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what is running, and takes the lab down
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        Path(folder).chmod(0o755)
        until = time.monotonic() + asked.minutes * 60
        bench = Bench(Path(folder), asked.small, asked.repeat, asked.patience, until, origin)
        bench.only = tuple(filter(None, asked.programs.split(",")))
        bench.no_lab = bench.no_lab or asked.no_lab
        try:
            for name in names:
                bench.row, bench.results = name, Results()
                bench.results.origins[origin] = about
                print(f"{time.strftime('%H:%M:%S')} {name}", file=sys.stderr, flush=True)
                try:
                    ROWS[name].measure(bench)
                except (Missing, Failed) as error:
                    bench.skip("", name, str(error))
                    if isinstance(error, Failed):
                        failures.append(f"{name}: {error}")
                kept = Results.load(path)
                kept.merge(bench.results)
                kept.save(path)
        finally:
            bench.close()
    for text in (*failures, *bench.failures):
        print(f"failed: {text}", file=sys.stderr)
    return len(failures) + len(bench.failures)


def main() -> int:
    """Measure or write, as asked; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help="names with commas, in the order of measuring")
    parser.add_argument("--programs", default="", help="only muster and these others, with commas")
    parser.add_argument("--repeat", type=int, default=3, help="rounds in which programs take turns")
    parser.add_argument("--minutes", type=float, default=180, help="start nothing after so many minutes")
    parser.add_argument(
        "--patience", type=float, default=180, help="seconds for all rounds of another program in a case"
    )
    parser.add_argument("--small", action="store_true", help="the smallest sizes, once: for correctness only")
    parser.add_argument("--results", default=str(RESULTS), help="file that is read and written")
    parser.add_argument("--write", nargs="?", const="docs/benchmarks.md", help="write this page and figures elsewhere")
    parser.add_argument("--no-lab", action="store_true", help="skip what needs the practice cluster")
    parser.add_argument("--list", action="store_true", help="list the rows")
    asked = parser.parse_args()
    if asked.list:
        print("\n".join(f"{name:<12} {row.title}" for name, row in ROWS.items()))
        return 0
    if asked.small:
        asked.repeat = 1
    names = [name for name in asked.rows.split(",") if name]
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        parser.error(f"unknown row: {', '.join(unknown)}; rows: {', '.join(ROWS)}")
    only_write = asked.write is not None and not any(word.startswith("--rows") for word in sys.argv)
    failed = 0 if only_write else measured(asked, names)
    if asked.write is not None:
        write_pages(Results.load(Path(asked.results)), ROOT, asked.write)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
