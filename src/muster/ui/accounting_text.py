"""The wording of what runs used against what they had."""

from __future__ import annotations

from collections.abc import Sequence

from muster.core.accounting import RunUse, advice
from muster.core.plurals import plural
from muster.core.printable import line as safe
from muster.ui.formatting import seconds, size_in_words


def use_in_words(use: RunUse) -> list[str]:
    """Return the lines of `muster show` about what a run used, and about what to ask for the next time."""
    parts, busiest = [], max(use.nodes, key=use.cores_used, default=None)
    if busiest is not None and busiest.cores:
        parts.append(f"{use.cores_used(busiest):.1f} of {plural(busiest.cores, 'core')}{_on(use, busiest.host)}")
    node = use.largest
    if node is not None and node.peak:
        of = f" of {size_in_words(node.memory)}" if node.memory else ""
        parts.append(f"memory peak {size_in_words(node.peak)}{of}{_on(use, node.host)}")
    parts.append(_cpu_time(use.core_hours))
    if use.gpu_hours:
        how = "" if use.gpu_use is None else f", {use.gpu_use:.0%} of the time in use"
        parts.append(f"{_hours(use.gpu_hours)} GPU hours{how}")
    source = f" ({safe(use.source)})" if use.source else ""
    lines = [f"used     {'; '.join(parts)}{source}"]
    told = advice_in_words(use)
    return [*lines, f"advice   {told}"] if told else lines


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _cpu_time(hours: float) -> str:
    return f"{_hours(hours)} core hours" if hours >= 0.1 else f"{seconds(hours * 3600)} of CPU time"


def _on(use: RunUse, host: str) -> str:
    return f" on {safe(host)}" if len(use.nodes) > 1 else ""


def advice_in_words(use: RunUse) -> str:
    """Return what to ask for the next time, in one sentence; empty if there is nothing to say."""
    found = advice(use)
    if found is None:
        return ""
    if found.kind == "gpus":
        gpus = plural(int(found.asked), "GPU")
        look = "`muster show --slow` and `muster report` show what ranks waited for"
        return f"asked for {gpus}, which computed {found.used:.0%} of the time; {look}"
    if found.kind == "cores":
        cores = plural(int(found.asked), "core")
        return f"asked for {cores} a node, used {found.used:.1f}: {found.enough} would be enough"
    asked, used = size_in_words(int(found.asked)), size_in_words(int(found.used))
    if found.kind == "more memory":
        return f"asked for {asked} of memory a node, used {used}: ask for --mem {found.enough}G, to be safe"
    return f"asked for {asked} of memory a node, used {used}: --mem {found.enough}G would be enough"


def stats_in_words(states: Sequence[str], uses: Sequence[RunUse]) -> str:
    """Return the sum of several runs: how they ended, and what they used."""
    counts = {state: list(states).count(state) for state in dict.fromkeys(states)}
    ended = ", ".join(f"{count} {safe(state)}" for state, count in sorted(counts.items(), key=lambda pair: -pair[1]))
    lines = [f"{plural(len(states), 'run')}: {ended}"]
    hours = sum(use.seconds for use in uses) / 3600
    cores = sum(use.core_hours for use in uses)
    lines.append(f"{seconds(hours * 3600)} of runs, {_cpu_time(cores)}")
    gpus = sum(use.gpu_hours for use in uses)
    if gpus:
        lines[-1] += f", {_hours(gpus)} GPU hours"
        known = [(use.gpu_hours, use.gpu_use) for use in uses if use.gpu_use is not None]
        if known:
            mean = sum(hours * part for hours, part in known) / sum(hours for hours, _ in known)
            lines[-1] += f", {mean:.0%} of the time in use"
    told = [text for use in uses if (text := advice_in_words(use))]
    if told:
        lines.append(f"{plural(len(told), 'run')} asked for much more or less than used; see `advice` in `muster show`")
    return "\n".join(lines)
