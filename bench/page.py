"""docs/benchmarks.md, and the figures in other pages, out of the results. Pure but for `write_pages`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from blocks_of_pages import BLOCKS
from costs import costs
from figures import MISSING, Figures
from goals import Row
from records import MUSTER, QUANTITIES, Origin, Results
from rows import ROWS

PAGE = "docs/benchmarks.md"

HEAD = """# Benchmarks

muster beside other launchers. `make bench` measures everything on this page again, on your machine and on the
[practice cluster](lab.md), and writes this page:

```
make bench                                                 # all rows: about an hour on two cores
.venv/bin/python bench/run.py --quick --minutes 12 --write # what is worth most, until the time is up
.venv/bin/python bench/run.py --rows launch,logs --repeat 5
.venv/bin/python bench/run.py --write                      # this page and the figures in other pages
```

In each row the programs take turns, so that a busy moment is as busy for all. A cell is the median, with the least and
the largest value in parentheses; `×` is the ratio of the median to that of muster. All programs have
`OMP_NUM_THREADS=1`. torchrunx is measured if `BENCH_TORCHRUNX` names the Python of a virtual environment that has it.
bench/results.json has each single measurement, with the load of the machine when it was taken.
"""

GPUS = """## GPUs

`make gpu-check` runs on a machine with a GPU and a torch with CUDA, without a network, in at most 6 minutes: forks
before CUDA is initialized, `device_count` in the fork server, CUDA_VISIBLE_DEVICES for each launcher, NCCL
all-reduces, the flight recorder and `muster why` with NCCL, `doctor` and `check` with nvidia-smi, training in bf16,
and the first all-reduce beside torchrun. It prints one table.

*not measured yet: no machine with a GPU*
"""

_MARKED = re.compile(r"(<!-- bench: ([\w-]+) -->\n).*?(<!-- end of bench -->)", re.S)


def goals_table(figures: Figures) -> Iterator[str]:
    """Yield the table of what must be reached."""
    yield "## What must be reached"
    yield ""
    yield "| row | must reach | measured | reached |"
    yield "|---|---|---|---|"
    for row in ROWS.values():
        for goal in row.goals:
            value, verdict = figures.verdict(row, goal)
            yield f"| [{row.name}](#{anchor(row.title)}) | {goal.text} | {value} | {verdict} |"
    yield ""


def anchor(title: str) -> str:
    """Return the anchor of a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def case_table(figures: Figures, row: str, case: str) -> Iterator[str]:
    """Yield the table of a case: a line for each program."""
    results = figures.results
    quantities = results.quantities(row, case)
    programs = results.programs(row, case)
    reasons = {each.program: each.reason for each in results.skipped if (each.row, each.case) == (row, case)}
    measured = [name for name in programs if any(results.values(row, case, each, name) for each in quantities)]
    compared = MUSTER in measured and len(measured) > 1
    if measured:
        yield from measured_table(figures, row, case, measured, compared)
    if reasons:
        names: dict[str, list[str]] = {}
        for name, reason in reasons.items():
            names.setdefault(reason, []).append(name)
        text = "; ".join(f"{', '.join(alike)} ({reason})" for reason, alike in names.items())
        yield f"Not measured{f', {case}' if case else ''}: {text}."
        yield ""


def measured_table(figures: Figures, row: str, case: str, programs: list[str], compared: bool) -> Iterator[str]:
    """Yield the lines of the programs that were measured in a case."""
    results = figures.results
    quantities = results.quantities(row, case)
    heads = []
    for quantity in quantities:
        kind = QUANTITIES[quantity]
        heads += [f"{kind.title}{f' [{kind.unit}]' if kind.unit else ''}", *(["×"] if compared else [])]
    yield f"| {case or 'program'} | {' | '.join(heads)} | n |"
    yield f"|---|{'---|' * len(heads)}---|"
    for name in programs:
        cells = []
        for quantity in quantities:
            cells.append(figures.cell(row, case, quantity, name))
            if compared:
                ratio = figures.ratio(row, case, quantity, name)
                cells.append("–" if ratio == MISSING else ratio.removesuffix(" ×"))
        count = max(len(results.values(row, case, each, name)) for each in quantities)
        yield f"| {name} | {' | '.join(cells)} | {count} |"
    yield ""


def section(figures: Figures, row: Row) -> Iterator[str]:
    """Yield the section of a row."""
    yield f"## {row.title}"
    yield ""
    yield f"{row.how} {row.floor}".rstrip()
    yield ""
    cases = figures.results.cases(row.name)
    for goal in row.goals:
        value, verdict = figures.verdict(row, goal)
        reached = {"yes": "reached, ", "–": ""}.get(verdict, "not reached, ")
        yield f"- {goal.text}: {reached}{value}"
    if row.goals:
        yield ""
    if not figures.results.quantities_of(row.name):
        yield f"*{MISSING}*"
        yield ""
    for case in cases:
        yield from case_table(figures, row.name, case)
    origins = sorted({each.origin for each in figures.results.measurements if each.row == row.name})
    if origins:
        loads = [each.load for each in figures.results.measurements if each.row == row.name]
        yield f"Measured {', '.join(origins)}; load average {min(loads):.1f} to {max(loads):.1f}."
        yield ""


def measured_on(origins: Mapping[str, Origin]) -> Iterator[str]:
    """Yield the machines and versions of all runs of the bench that figures come from."""
    yield "## Machine and versions"
    yield ""
    if not origins:
        yield f"*{MISSING}*"
    for origin in origins.values():
        yield f"- **{origin.time}**, `{origin.command}`{', at the smallest sizes' if origin.small else ''}: "
        yield "  " + ", ".join(f"{name} {value}" for name, value in origin.machine.items()) + "; "
        yield "  " + ", ".join(f"{name} {value}" for name, value in origin.versions.items()) + "."


def page(results: Results) -> str:
    """Return docs/benchmarks.md."""
    figures = Figures(results)
    lines = [HEAD, *goals_table(figures)]
    for row in ROWS.values():
        lines += section(figures, row)
    lines += [costs(figures), GPUS, *measured_on(results.origins)]
    return "\n".join(lines).rstrip() + "\n"


def filled(text: str, results: Results, blocks: Mapping[str, Callable[[Figures], str]] = BLOCKS) -> str:
    """Return a page with its marked parts written again.

    A part is what is between `<!-- bench: NAME -->` and `<!-- end of bench -->`; `blocks` has the names. Raises
    `KeyError` for an unknown one.
    """
    figures = Figures(results)
    return _MARKED.sub(lambda found: f"{found[1]}\n{blocks[found[2]](figures).strip()}\n\n{found[3]}", text)


def marked_pages(root: Path) -> list[Path]:
    """Return the pages that have marked parts."""
    pages = [*root.glob("*.md"), *(root / "docs").rglob("*.md")]
    return sorted(path for path in pages if path != root / PAGE and "<!-- bench: " in path.read_text())


def write_pages(results: Results, root: Path, name: str = PAGE) -> None:
    """Write the page and the marked parts of other pages."""
    (root / name).write_text(page(results))
    if root / name == root / PAGE:
        for path in marked_pages(root):
            path.write_text(filled(path.read_text(), results))
