"""The result of `muster check` as a self-contained HTML page, without scripts, in light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from muster.core.plurals import plural
from muster.diagnostics.selftest.text import HEADS, NO_TRANSFER, SPEED_HEADS, end_in_words, rank_row, speed_row
from muster.diagnostics.selftest.verdicts import SECTIONS, Reported, Verdict
from muster.ui import html

_STYLE = """
ul { list-style: none; padding: 0; margin: .75rem 0 } li { padding: .15rem 0 .15rem 1.6rem; text-indent: -1.6rem }
li b { display: inline-block; width: 1.6rem; text-indent: 0 } li span { color: var(--soft) }
"""

_COLOURS = {
    "alone": "s0",
    "distributed": "s1",
    "no averaging": "s2",
    "one shard for all": "s3",
    "sum in place of mean": "s4",
}

_MOST_RANKS = 64
"""Maximum number of rows in the picture of the data."""


def page(told: Reported, verdicts: Sequence[Verdict], title: str, command: str) -> str:
    """Return the page; `title` names the run, `command` is the command line."""
    sound = all(verdict.passed for verdict in verdicts)
    parts = [
        f"<h1>{escape(title)}</h1><p><code>{escape(command)}</code></p>",
        f'<p class="all {"good" if sound else "bad"}">{escape(end_in_words(verdicts))}</p>',
    ]
    for number, (section, says) in enumerate(SECTIONS.items()):
        parts.append(f'<section id="{section}"><h2>{number} {escape(says)}</h2>')
        parts.append(_statements(verdict for verdict in verdicts if verdict.section == section))
        if section in told:
            parts.append(_PICTURES[section](told[section]))
        parts.append("</section>")
    return html.page(title, _STYLE, parts)


def _statements(verdicts: Iterable[Verdict]) -> str:
    items = []
    for verdict in verdicts:
        mark = '<b class="good">✓</b>' if verdict.passed else '<b class="bad">✗</b>'
        words = f": <span>{escape(verdict.found)}</span>" if verdict.found else ""
        words += f"<br><span>fix: {escape(verdict.remedy)}</span>" if verdict.remedy and not verdict.passed else ""
        items.append(f"<li>{mark}{escape(verdict.name)}{words}</li>")
    return f"<ul>{''.join(items)}</ul>"


def _who(told: Mapping[str, Any]) -> str:
    return html.table(HEADS, map(rank_row, told["ranks"]))


def _sums(told: Mapping[str, Any]) -> str:
    if not told["speed"]:
        return f"<p>{NO_TRANSFER}</p>"
    return html.table(SPEED_HEADS, map(speed_row, told["speed"])) + (
        "<p>algbw = bytes / time; busbw = algbw × 2(n−1)/n for n ranks, as nccl-tests compute it: compare it with the "
        "bandwidth of the network</p>"
    )


# ---- samples by rank -------------------------------------------------------------------------------------------------


def _data(told: Mapping[str, Any]) -> str:
    captions = {
        "epoch": "Epoch {epoch}. Each column is a sample, marked in the row of the rank that gets it; two marks: a "
        "sample used for padding.",
        "without DistributedSampler": "Without DistributedSampler each rank gets all samples: the epoch is repeated "
        "by every rank.",
    }
    figures = []
    for look in told["epochs"]:
        if look["what"] in captions:
            picture = _grid(look["by_rank"], told["samples"])
            figures.append(
                f"<figure>{picture}<figcaption>{captions[look['what']].format(**look)}</figcaption></figure>"
            )
    return "".join(figures)


def _grid(by_rank: Sequence[Sequence[int]], samples: int) -> str:
    """Return a grid with a row per rank and a column per sample, marked where the rank sees the sample."""
    rows = by_rank[:_MOST_RANKS]
    wide, left, top = 900, 64, 20
    across = (wide - left) / samples
    high = max(6.0, min(18.0, 260 / len(rows)))
    marks = [
        f'<rect x="{left + sample * across + across * 0.08:.1f}" y="{top + rank * high + high * 0.1:.1f}" '
        f'width="{across * 0.84:.1f}" height="{high * 0.8:.1f}" rx="1"/>'
        for rank, share in enumerate(rows)
        for sample in sorted(share)
    ]
    every = max(1, math.ceil(12 / high))
    names = [
        f'<text x="{left - 8}" y="{top + (rank + 0.5) * high + 4:.1f}" text-anchor="end">rank {rank}</text>'
        for rank in range(0, len(rows), every)
    ]
    lines = [
        f'<line x1="{left}" x2="{wide}" y1="{top + (row + 1) * high:.1f}" y2="{top + (row + 1) * high:.1f}"/>'
        for row in range(len(rows))
    ]
    hidden = len(by_rank) - len(rows)
    more = f"; {plural(hidden, 'more rank')} not shown" if hidden else ""
    return (
        f'<svg viewBox="0 0 {wide} {top + high * len(rows) + 2:.0f}" role="img" class="grid">'
        f'<text x="{left}" y="12">sample 0</text><text x="{wide}" y="12" text-anchor="end">{samples - 1}{more}</text>'
        f'<g stroke="var(--line)" stroke-width="1">{"".join(lines)}</g>'
        f'<g fill="var(--s1)">{"".join(marks)}</g>{"".join(names)}</svg>'
    )


# ---- loss curves ----------------------------------------------------------------------------------------------------


def _convergence(told: Mapping[str, Any]) -> str:
    rows = [
        (way["way"], *("NaN" if number is None else f"{number:.3g}" for number in (way["off"], way["apart"])))
        for way in told["ways"]
    ]
    heads = ("", "difference from one rank", "difference between ranks")
    caption = (
        "Loss on unseen data, mean over ranks. The curve of all ranks must match that of one rank; the others are "
        "deliberate mistakes, and must not."
    )
    return f"<figure>{_curves(told['ways'])}<figcaption>{caption}</figcaption></figure>" + html.table(heads, rows)


def _curves(ways: Sequence[Mapping[str, Any]]) -> str:
    """Return a plot of all losses. A curve that exceeds the scale, as a mistake's may, is clipped at the top."""
    wide, high, left, right, top, bottom = 900, 340, 48, 170, 10, 28
    steps = len(ways[0]["losses"])
    highest = max(loss for way in ways[:2] for loss in way["losses"] if loss is not None) * 1.25 or 1.0

    def at(step: int, loss: float) -> tuple[float, float]:
        x = left + step / max(1, steps - 1) * (wide - left - right)
        return x, top + (1 - min(loss / highest, 1.0)) * (high - top - bottom)

    lines, ends = [], []
    for way in ways:
        points = [at(step, loss) for step, loss in enumerate(way["losses"]) if loss is not None]
        how = {"alone": "5", "distributed": "2"}.get(way["way"], "1.5")
        dashes = ' stroke-dasharray="5 4"' if way["way"] not in ("alone", "distributed") else ""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        colour = f"var(--{_COLOURS[way['way']]})"
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{how}"{dashes}/>')
        ends.append((points[-1][1], way["way"]))
    names, lowest = [], -math.inf
    for y, name in sorted(ends):  # labels at the ends of the lines, without overlaps
        lowest = max(y, lowest + 15)
        place = f'x="{wide - right + 8}" y="{lowest + 4:.1f}" style="fill:var(--{_COLOURS[name]})"'
        names.append(f"<text {place}>{escape(name)}</text>")
    axis = []
    for part in range(5):
        value = highest * part / 4
        y = at(0, value)[1]
        axis.append(f'<line x1="{left}" x2="{wide - right}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
        axis.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.2g}</text>')
    for step in (0, steps - 1):
        x = at(step, 0.0)[0]
        axis.append(f'<text x="{x:.1f}" y="{high - 8}" text-anchor="middle">step {step}</text>')
    return (
        f'<svg viewBox="0 0 {wide} {high}" role="img" class="curves">'
        f"{''.join(axis)}{''.join(lines)}{''.join(names)}</svg>"
    )


_PICTURES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "who": _who,
    "sum": _sums,
    "data": _data,
    "convergence": _convergence,
}
