"""The result of `muster check` as text for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from muster.core.layout import fold
from muster.core.plurals import plural
from muster.diagnostics.selftest.verdicts import SECTIONS, Reported, Verdict
from muster.ui.formatting import table

_MOST = 64
"""Maximum number of ranks in the table; the page shows more."""

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def section_in_words(section: str, told: Reported, verdicts: Sequence[Verdict]) -> str:
    """Return one section: its table and its checks."""
    lines = [f"{list(SECTIONS).index(section)} {SECTIONS[section]}"]
    if section in told:
        lines += _TABLES[section](told[section])
    for verdict in verdicts:
        if verdict.section == section:
            lines.append(f"  {'ok' if verdict.passed else 'FAIL':<7}{verdict.name}" + _after(verdict.found))
            lines += [f"         fix: {verdict.remedy}"] if verdict.remedy and not verdict.passed else []
    return "\n".join(lines) + "\n"


def end_in_words(verdicts: Sequence[Verdict]) -> str:
    """Return the last line."""
    wrong = sum(not verdict.passed for verdict in verdicts)
    passed = plural(len(verdicts) - wrong, "check") + " passed"
    return f"{passed}, {wrong} failed" if wrong else passed


def _after(found: str) -> str:
    return f": {found}" if found else ""


def _indented(*rows: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in table(rows).splitlines()]


HEADS = ("rank", "host", "local", "device", "cores", "NUMA", "threads", "pid", "versions")


def rank_row(rank: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the table row of one rank, under `HEADS`."""
    gpu = rank["gpu"]
    device = "cpu" if gpu is None else " ".join(filter(None, (gpu["name"], gpu["uuid"], gpu["bus"])))
    versions = [f"Python {rank['python']}", f"torch {rank['torch']}"]
    versions += [f"CUDA {rank['cuda']}", f"NCCL {rank['nccl']}"] if rank["nccl"] else []
    cores, numa = fold(rank["cpus"]), fold(rank["numa"]) or "-"
    numbers = (str(rank["rank"]), rank["host"], str(rank["local_rank"]))
    return (*numbers, device, cores, numa, str(rank["threads"]), str(rank["pid"]), ", ".join(versions))


def _who(told: Mapping[str, Any]) -> list[str]:
    ranks = told["ranks"]
    lines = _indented(HEADS, *map(rank_row, ranks[:_MOST]))
    return lines + ([f"  … and {len(ranks) - _MOST} more, see the HTML report"] if ranks[_MOST:] else [])


SPEED_HEADS = ("all-reduce size", "time", "algbw", "busbw")


def speed_row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the table row of one size, under `SPEED_HEADS`."""
    size = entry["bytes"]
    unit = f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
    rates = (f"{entry['algorithm_gb_s']:.3g} GB/s", f"{entry['bus_gb_s']:.3g} GB/s")
    return (unit, f"{entry['seconds'] * 1e6:,.0f} µs", *rates)


NO_TRANSFER = "no bandwidths: a single rank transfers nothing"


def _sums(told: Mapping[str, Any]) -> list[str]:
    if not told["speed"]:
        return [f"  {NO_TRANSFER}"]
    return _indented(SPEED_HEADS, *map(speed_row, told["speed"]))


def holders(by_rank: Sequence[Sequence[int]], samples: int) -> list[list[int]]:
    """Return for each sample the ranks that saw it, with repetitions."""
    found: list[list[int]] = [[] for _ in range(samples)]
    for rank, share in enumerate(by_rank):
        for sample in share:
            found[sample].append(rank)
    return found


def _data(told: Mapping[str, Any]) -> list[str]:
    """Return a row for each epoch with the rank of each sample."""
    looks = [look for look in told["epochs"] if look["what"] == "epoch"]
    if len(looks[0]["by_rank"]) > len(_DIGITS):
        return []
    rows = ["  the rank that gets sample 0, 1, 2, …; + for several ranks"]
    for look in looks:
        seen = holders(look["by_rank"], told["samples"])
        rows.append(
            f"  epoch {look['epoch']}  " + "".join("+" if of[1:] else _DIGITS[of[0]] if of else "." for of in seen)
        )
    return rows


def _convergence(told: Mapping[str, Any]) -> list[str]:
    rows = [("", "first loss", "last loss")]
    for way in told["ways"]:
        losses = [way["losses"][0], way["losses"][-1]]
        rows.append((way["way"], *("-" if loss is None else f"{loss:.6f}" for loss in losses)))
    return _indented(*rows)


_TABLES: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "who": _who,
    "sum": _sums,
    "data": _data,
    "convergence": _convergence,
}
