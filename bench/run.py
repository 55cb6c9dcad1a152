"""Measure muster beside other launchers, and write what was measured into the documentation.

    python bench/run.py                                   all rows; the results are kept in bench/results.json
    python bench/run.py --rows launch,logs --repeat 5     some rows; the others keep their results
    python bench/run.py --quick --minutes 12 --write      what is worth most, as far as the time goes
    python bench/run.py --write                           only write docs/benchmarks.md and figures in other pages
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
from collections.abc import Sequence
from pathlib import Path

from harness import ROOT, Bench, Failed, Missing
from machine import machine, versions
from page import write_pages
from records import Origin, Results
from rows import QUICK, ROWS, Part

RESULTS = ROOT / "bench" / "results.json"


def measured(asked: argparse.Namespace, parts: Sequence[Part]) -> int:
    """Measure parts, keep the results after each; return the number of failures of muster."""
    path = Path(asked.results)
    origin = time.strftime("%Y-%m-%d %H:%M:%S")
    command = shlex.join(["bench/run.py", *sys.argv[1:]])
    about = Origin(origin, command, asked.small, machine(), versions())
    failures = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what is running, and takes the lab down
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        Path(folder).chmod(0o755)
        until = time.monotonic() + asked.minutes * 60
        bench = Bench(Path(folder), asked.small, until, origin)
        bench.no_lab = bench.no_lab or asked.no_lab
        try:
            for part in parts:
                if time.monotonic() > until:
                    break
                bench.row, bench.cases, bench.only, bench.results = part.row, part.cases, part.programs, Results()
                bench.repeat, bench.patience = part.repeat or asked.repeat, part.patience
                bench.results.origins[origin] = about
                print(" ".join((time.strftime("%H:%M:%S"), part.row, *part.cases)), file=sys.stderr, flush=True)
                try:
                    ROWS[part.row].measure(bench)
                except (Missing, Failed) as error:
                    bench.skip("", part.row, str(error))
                    if isinstance(error, Failed):
                        failures.append(f"{part.row}: {error}")
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
    parser.add_argument("--rows", default="", help="names with commas, in the order of measuring")
    parser.add_argument("--all", action="store_true", help="all rows, also with --write")
    parser.add_argument("--quick", action="store_true", help="some cases of all rows, what is worth most first")
    parser.add_argument("--case", action="append", default=[], help="measure only this case of a row, by its name")
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
    names = [name for name in asked.rows.split(",") if name] or list(ROWS)
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        parser.error(f"unknown row: {', '.join(unknown)}; rows: {', '.join(ROWS)}")
    programs = tuple(filter(None, asked.programs.split(",")))
    parts = [Part(name, tuple(asked.case), programs, patience=asked.patience) for name in names]
    only_write = asked.write is not None and not asked.rows and not asked.quick and not asked.all
    failed = 0 if only_write else measured(asked, QUICK if asked.quick else parts)
    if asked.write is not None:
        write_pages(Results.load(Path(asked.results)), ROOT, asked.write)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
