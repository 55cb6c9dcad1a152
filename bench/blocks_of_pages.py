"""Figures in README and other pages: a function for each marked part, from the results to Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from figures import MISSING, Figures
from records import QUANTITIES

NOTHING = "Not measured with this version yet."


def launch_table(figures: Figures, row: str, cases: Mapping[str, str], other: str, head: str) -> str:
    """Return a table of muster and another launcher."""
    lines = []
    for quantity in ("first", "ended"):
        for case, name in cases.items():
            ours, theirs = (figures(row, case, quantity, program) for program in ("muster", other))
            ratio = figures.ratio(row, case, quantity, other)
            if ratio != MISSING:
                lines.append(f"| {name} | {QUANTITIES[quantity].title} | {ours} | {theirs} | {ratio} |")
    heads = [f"| {head} | time until | muster | {other} | faster by |", "|---|---|---|---|---|"]
    return "\n".join([*heads, *lines]) if lines else NOTHING


def readme_launch(figures: Figures) -> str:
    """Return the table of one machine."""
    cases = {"1 rank": "1", "8 ranks": "8", "32 ranks": "32"}
    return launch_table(figures, "launch", cases, "torchrun", "ranks")


def readme_hosts(figures: Figures) -> str:
    """Return the table of three hosts."""
    return launch_table(figures, "hosts", {"3 × 2": "3 × 2", "3 × 8": "3 × 8"}, "srun + torchrun", "hosts × ranks")


def readme_rest(figures: Figures) -> str:
    """Return a list of what else is measured."""
    found = {
        "from SIGKILL of one of 8 ranks until all have restarted and completed an all-reduce": (
            figures("restart", "8 ranks", "restart")
        ),
        "from the failure of one of 8 ranks until the command has ended": figures("death", "8 ranks", "death"),
        "a second run with 8 ranks on a [session](docs/hold.md), first all-reduce": figures("held", "8 ranks", "first"),
        "memory of 32 idle ranks": figures("idle", "32 ranks", "memory"),
        "memory of 32 idle ranks of torchrun": figures("idle", "32 ranks", "memory", "torchrun"),
        "watching 128 idle ranks": f"{figures('idle', '128 ranks, watched', 'share')} of a core",
        "CPU time of the controller when one of 32,000 ranks fails": figures("controller", "4,000 nodes × 8", "cpu"),
    }
    return "\n".join(f"- {name}: {value}" for name, value in found.items() if MISSING not in value) or NOTHING


def controller_table(figures: Figures) -> str:
    """Return what the ends of runs take, by the number of ranks."""
    results = figures.results
    cases = results.cases("controller")
    lines = [f"| CPU time for the end of | {' | '.join(cases)} |", f"|---|{'---|' * len(cases)}"]
    names = dict.fromkeys(name for case in cases for name in results.programs("controller", case))
    for name in names:
        cells = [figures("controller", case, "cpu", name) for case in cases]
        way = name.partition(": ")[2] or "one fails"
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines) if cases else NOTHING


BLOCKS: Mapping[str, Callable[[Figures], str]] = {
    "launch": readme_launch,
    "hosts": readme_hosts,
    "rest": readme_rest,
    "controller": controller_table,
}
"""The names in `<!-- bench: NAME -->`."""
