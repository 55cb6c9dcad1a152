"""Formatting of durations, sizes, shell words and tables."""

from __future__ import annotations

from collections.abc import Sequence

from muster.core.model import Late, Template, Text
from muster.core.plurals import plural
from muster.core.printable import line as safe
from muster.core.progress import Progress
from muster.linux.shell import ONE_LINE, quote


def seconds(value: float) -> str:
    """Return a duration as text: `0.8s`, `12s`, `4m 5s`, `3h 20m`, `2d 4h`."""
    if value < 9.95:
        return f"{value:.1f}s"
    whole = round(value)
    for unit, size, small, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size}{unit}" + (f" {rest}{small}" if rest else "")
    return f"{whole}s"


def progress_in_words(found: Progress) -> str:
    """Return how far a run is: `step 812 of 1,000 (81%)`."""
    of = f" of {found.total:,} ({found.step / found.total:.0%})" if found.total else ""
    return f"step {found.step:,}{of}"


def shell_word(text: Text) -> str:
    """Return a word quoted for a shell, on one line; late values appear as variables: `--port=$MASTER_PORT`."""
    if isinstance(text, Template):
        return "".join(map(shell_word, text.parts))
    if isinstance(text, Late):
        return f"${text.key}"
    return quote(text, ONE_LINE)


# ---- tables
# -----------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows aligned in columns. Cells are sanitized, so that none can start another row."""
    rows = [[safe(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


_SHORTEST = 12
"""Characters to which the last column is shortened before other columns are left out."""


def fitted(rows: Sequence[Sequence[str]], width: int, spare: Sequence[str]) -> str:
    """Return a table that fits a terminal's width, if possible.

    First the last column is shortened, then the columns whose heads are in `spare` are left out, in this order.
    """
    rows = [[safe(cell) for cell in row] for row in rows]
    for head in ("", *spare):
        if head in rows[0]:
            column = rows[0].index(head)
            rows = [[*row[:column], *row[column + 1 :]] for row in rows]
        widths = [max(len(row[column]) + 2 for row in rows) for column in range(len(rows[0]) - 1)]
        room = width - sum(widths)
        if room >= min(_SHORTEST, max(len(row[-1]) for row in rows)):
            break
    return table([[*row[:-1], shortened(row[-1], max(_SHORTEST, room))] for row in rows])


def shortened(text: str, width: int) -> str:
    """Return a text of at most `width` characters, with an ellipsis for what is left out."""
    return text if len(text) <= width else text[: width - 1] + "…"


def size_in_words(count: int) -> str:
    """Return a size as text: `1 byte`, `980 bytes`, `9.8 KiB`, `412 MiB`, `1.3 GiB`; in powers of 1024."""
    if count < 10_000:
        return plural(count, "byte")
    value, unit = count / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if value >= 999.5:
            value, unit = value / 1024, larger
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"


def share_in_words(part: int, whole: int) -> str:
    """Return two sizes in the unit of the second: `61.8 of 64.0 GiB`."""
    value, unit = whole / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if value >= 999.5:
            value, unit = value / 1024, larger
    return f"{value * part / whole:.1f} of {value:.1f} {unit}"
