"""What `muster top` shows of a run: lines that fit a terminal, made from a `TopView`."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from muster.core.fold import by_value
from muster.core.hostlist import fold_hostlist
from muster.core.live_view import RankState, RankView, Steps, TopView, slowest
from muster.core.plurals import plural
from muster.core.printable import line as safe
from muster.core.results import RunState, TextEnum
from muster.ui.formatting import progress_in_words, seconds, shortened, size_in_words


class Style(TextEnum):
    """How a piece of text looks."""

    PLAIN = "plain"
    TITLE = "title"
    FAINT = "faint"
    GOOD = "good"
    BAD = "bad"
    ODD = "odd"
    """Neither good nor bad, but worth a look."""
    CHOSEN = "chosen"


class Piece(NamedTuple):
    """Text in one style."""

    text: str
    style: Style = Style.PLAIN


Row = tuple[Piece, ...]


class _Mark(NamedTuple):
    """How ranks in one condition appear in the grid."""

    letter: str
    words: str
    style: Style


_MARKS = (
    _Mark("F", "failed", Style.BAD),
    _Mark("L", "lost", Style.BAD),
    _Mark("?", "no answer", Style.ODD),
    _Mark("b", "behind", Style.ODD),
    _Mark("T", "terminated", Style.ODD),
    _Mark("s", "starting", Style.FAINT),
    _Mark("q", "quiet", Style.PLAIN),
    _Mark("R", "running", Style.GOOD),
    _Mark(".", "succeeded", Style.FAINT),
)
"""The most urgent first: in a cell of several ranks it is the one that is shown."""
_BY_WORDS = {mark.words: place for place, mark in enumerate(_MARKS)}

_IDLE = 5.0
"""CPU usage, in percent of a core, below which a rank counts as quiet."""
_MOST_GRID = 8
"""Maximum number of rows of the grid."""
_MOST_NOTICE = 3
"""Maximum number of rows of a notice, such as an error message of ssh."""
_FEW = 8
"""Number of ranks up to which each has a row of its own, and there is no grid."""
KEYS = "arrows rank  s stacks  w why  l logs  k kill  ? help  q quit"

HELP = """\
Each letter of the grid is one rank, or several if there are many: then the
most urgent of them.

  R running        q quiet (below 5% of a core)  s starting
  b behind         its collectives, or steps, are fewer than those of other ranks
  F failed         T terminated                  L its host is lost
  . succeeded      ? the agent of its host does not answer

  left, right      select another rank
  up, down         select a rank on another host
  n                select the next rank that is not as it should be
  s                Python stacks of all ranks
  w                why the run hangs
  l                more of the output of the selected rank
  k                terminate the run, after a question
  q, Ctrl-C        leave; the run continues

CPU is in percent of a core, and includes processes that a rank has started.
Memory is resident; what processes share counts for each of them."""


def condition(rank: RankView) -> int:
    """Return the place of a rank's condition in the order of urgency."""
    if rank.state is RankState.RUNNING:
        quiet = rank.usage is not None and rank.usage.cpu < _IDLE
        words = (
            "no answer"
            if rank.silent
            else "behind"
            if rank.behind or rank.steps_behind
            else "quiet"
            if quiet
            else "running"
        )
        return _BY_WORDS[words]
    return _BY_WORDS[str(rank.state)]


# ---- the head --------------------------------------------------------------------------------------------------------


def head(view: TopView, width: int) -> list[Row]:
    """Return what is known of the run as a whole; only long sentences are wrapped."""
    name = f" ({safe(view.name)})" if view.name else ""
    attempt = f", restart {view.attempt}" if view.attempt else ""
    state, style = str(view.state), Style.GOOD if view.state is RunState.RUNNING else Style.ODD
    rows: list[Row] = [
        (
            Piece(f"{view.run_id}{name}", Style.TITLE),
            Piece(f"  {state}", style),
            Piece(f" {seconds(view.seconds)}{attempt}"),
        )
    ]
    if view.ranks:
        where = f" on {plural(len(view.hosts), 'host')}" if len(view.hosts) > 1 else f" on {safe(view.host(0))}"
        rows.append((Piece(plural(len(view.ranks), "rank") + where + ": "), *_counts(view.ranks)))
    if view.collectives is not None:
        rate = f", {view.collectives.rate:.1f}/s" if view.collectives.rate is not None else ""
        rows.append((Piece(f"collectives: {view.collectives.called:,} called{rate}"),))
    if view.steps is not None:
        rows.append((Piece(_steps_in_words(view.steps)),))
    if view.silent and view.state is RunState.RUNNING:
        rows += _wrapped(f"no answer from {fold_hostlist(map(safe, view.silent))}", width)
    if view.state is RunState.PENDING and view.why:
        rows += _wrapped(safe(view.why), width)
    elif why := view.problem or view.why:
        again = "; trying again" if view.state in (RunState.RUNNING, RunState.UNKNOWN) else ""
        old = f"; the ranks below are {seconds(view.age)} old" if again and view.ranks else ""
        rows += _wrapped(f"{safe(why)}{again}{old}", width)
    return rows


def _steps_in_words(steps: Steps) -> str:
    """Return how far a run is: `step 812 of 1,000 (81%), 3.2/s, 59s left`."""
    rate = f", {steps.rate:.3g}/s" if steps.rate else ""
    left = f", {seconds(steps.left)} left" if steps.left else ""
    return f"{progress_in_words(steps.progress)}{rate}{left}"


def _wrapped(text: str, width: int) -> list[Row]:
    lines = textwrap.wrap(text, max(20, width), max_lines=_MOST_NOTICE, placeholder="…")
    return [(Piece(line, Style.ODD),) for line in lines]


def _counts(ranks: Sequence[RankView]) -> list[Piece]:
    """Return how many ranks are in each condition, with its letter."""
    counts = Counter(map(condition, ranks))
    pieces: list[Piece] = []
    for place in sorted(counts):
        mark = _MARKS[place]
        pieces += [Piece(", ")] if pieces else []
        pieces.append(Piece(f"{counts[place]} {mark.words} ({mark.letter})", mark.style))
    return pieces


# ---- the grid --------------------------------------------------------------------------------------------------------


class _Cell(NamedTuple):
    """Ranks that share a letter."""

    ranks: tuple[RankView, ...]

    def piece(self, selected: int) -> Piece:
        mark = _MARKS[min(map(condition, self.ranks))]
        chosen = any(rank.rank == selected for rank in self.ranks)
        return Piece(mark.letter, Style.CHOSEN if chosen else mark.style)


def grid(view: TopView, width: int, most: int, selected: int) -> list[Row]:
    """Return the ranks as letters, by node, in at most so many rows."""
    nodes = [ranks for _, ranks in sorted(by_value((rank, rank.node) for rank in view.ranks).items())]
    if not nodes:
        return []
    if len(nodes) == 1:
        return _lines_of_cells(_singly(nodes[0]), width, most, selected)
    names = [safe(view.host(ranks[0].node)) for ranks in nodes]
    name, wide = min(16, max(map(len, names))), max(map(len, nodes))
    cell = name + 1 + wide
    columns = max(0, (width + 2) // (cell + 2))
    if columns and -(-len(nodes) // columns) <= most:
        rows = -(-len(nodes) // most)  # as few columns as possible
        columns = min(columns, max(1, rows))
        return [
            _row_of_nodes(list(zip(names, nodes))[begin : begin + columns], name, wide, selected)
            for begin in range(0, len(nodes), columns)
        ]
    return _lines_of_cells([(host, _Cell(tuple(ranks))) for host, ranks in zip(names, nodes)], width, most, selected)


def _row_of_nodes(nodes: Iterable[tuple[str, Sequence[RankView]]], name: int, wide: int, selected: int) -> Row:
    pieces: list[Piece] = []
    for host, ranks in nodes:
        pieces += [Piece("  ")] if pieces else []
        pieces.append(Piece(f"{shortened(host, name):{name}} ", Style.FAINT))
        pieces += [_Cell((rank,)).piece(selected) for rank in ranks]
        pieces.append(Piece(" " * (wide - len(ranks))))
    return tuple(pieces)


def _singly(ranks: Sequence[RankView]) -> list[tuple[str, _Cell]]:
    return [(str(rank.rank), _Cell((rank,))) for rank in ranks]


def _lines_of_cells(cells: Sequence[tuple[str, _Cell]], width: int, most: int, selected: int) -> list[Row]:
    """Return cells in rows, each row after the name of its first cell; cells are joined if there are too many."""
    name = min(16, max(len(title) for title, _ in cells))
    each = max(10, (width - name - 1) // 10 * 10)
    join = -(-len(cells) // (each * most))
    joined = [
        (cells[at][0], _Cell(tuple(rank for _, cell in cells[at : at + join] for rank in cell.ranks)))
        for at in range(0, len(cells), join)
    ]
    rows: list[Row] = []
    for at in range(0, len(joined), each):
        first = Piece(f"{shortened(joined[at][0], name):>{name}} ", Style.FAINT)
        rows.append((first, *(cell.piece(selected) for _, cell in joined[at : at + each])))
    return rows


# ---- the table, and the output ---------------------------------------------------------------------------------------


def table_of(view: TopView, ranks: Sequence[RankView], selected: int) -> list[Row]:
    """Return a table of these ranks."""
    hosts = [safe(view.host(rank.node)) for rank in ranks]
    wide = min(20, max([4, *map(len, hosts)]))
    steps = {rank.rank: rank.usage.progress.text for rank in ranks if rank.usage and rank.usage.progress}
    far = max(map(len, ("STEP", *steps.values()))) + 1 if steps else 0
    column = f"{'STEP':>{far}}" if steps else ""
    rows: list[Row] = [(Piece(f"{'RANK':>5} {'HOST':{wide}} {'CPU':>6} {'MEMORY':>9}{column}  STATE", Style.FAINT),)]
    for rank, host in zip(ranks, hosts):
        use = rank.usage if rank.state is RankState.RUNNING else None
        cpu, memory = (f"{use.cpu:.0f}%", size_in_words(use.memory)) if use is not None else ("", "")
        mark = _MARKS[condition(rank)]
        numbers = (
            f"{rank.rank:>5} {shortened(host, wide):{wide}} {cpu:>6} {memory:>9}{steps.get(rank.rank, ''):>{far}}  "
        )
        chosen = Style.CHOSEN if rank.rank == selected else Style.PLAIN
        rows.append((Piece(numbers, chosen), Piece(_state_in_words(rank, mark.words), mark.style)))
    return rows


def _state_in_words(rank: RankView, words: str) -> str:
    if rank.behind:
        return f"behind by {plural(rank.behind, 'collective')}"
    if rank.steps_behind and rank.state is RankState.RUNNING and not rank.silent:
        return f"behind by {plural(rank.steps_behind, 'step')}"
    return f"{words}: {safe(rank.how)}" if rank.how and rank.state is not RankState.SUCCEEDED else words


def tail_of(view: TopView, most: int) -> list[Row]:
    """Return the last lines of the selected rank, below a heading, in at most so many rows."""
    if view.tail is None or most < 2:
        return []
    on = next((f" on {safe(view.host(rank.node))}" for rank in view.ranks if rank.rank == view.tail.rank), "")
    title = Piece(f"last lines of rank {view.tail.rank}{on}", Style.FAINT)
    if view.tail.why or not view.tail.lines:
        return [(title, Piece(f": {view.tail.why or 'nothing yet'}", Style.FAINT))]
    return [(title,), *((Piece(line),) for line in view.tail.lines[-(most - 1) :])]


# ---- all of it -------------------------------------------------------------------------------------------------------


def screen(view: TopView, width: int, height: int, selected: int) -> list[Row]:
    """Return at most so many rows, of any length: they are cut where they are shown."""
    rows = head(view, width)
    left = height - len(rows)
    if len(view.ranks) <= min(_FEW, left - 4):
        rows += table_of(view, view.ranks, selected) if view.ranks else []
    else:
        rows += grid(view, width, max(1, min(_MOST_GRID, left - 8)), selected)
        own = [rank for rank in view.ranks if rank.rank == selected]
        count = max(0, min(5, (height - len(rows)) // 2 - 1))
        others = [rank for rank in slowest(view.ranks) if rank.rank != selected]
        rows += table_of(view, own + others[: max(0, count - len(own))], selected) if count else []
    return (rows + tail_of(view, height - len(rows)))[:height]


def plain(rows: Iterable[Row], width: int) -> str:
    """Return rows as text, each cut to this width."""
    return "\n".join(shortened("".join(piece.text for piece in row).rstrip(), width) for row in rows)


def narrowed(line: str, width: int) -> str:
    """Return a line of a stack in at most `width` characters, if leaving out the front of its path makes it fit.

    The end of a path, with the name of the file, tells more than its front.
    """
    found = re.fullmatch(r'(.*File ")([^"]+)(".*)', line)
    excess = len(line) - width
    if found is None or excess <= 0:
        return line
    before, path, after = found.groups()
    name = path[max(0, path.rfind("/")) :]
    kept = path[excess + 1 :] if excess + 1 < len(path) - len(name) else name
    return f"{before}…{kept}{after}" if kept != path else line


def neighbour(view: TopView, selected: int, key: str) -> int:
    """Return the rank that a key selects: `left`, `right`, `up`, `down`, or `next` for the next notable one."""
    ranks = {rank.rank: rank for rank in view.ranks}
    if selected not in ranks:
        return min(ranks, default=0)
    if key in ("left", "right"):
        return (selected + (1 if key == "right" else -1)) % len(ranks)
    if key == "next":
        notable = sorted(rank.rank for rank in view.ranks if rank.notable)
        return next((rank for rank in notable if rank > selected), notable[0] if notable else selected)
    nodes = by_value((rank.rank, rank.node) for rank in view.ranks)
    here = ranks[selected].node
    mine = nodes[here]
    if len(nodes) == 1:  # a row of a single host
        return (selected + (10 if key == "down" else -10)) % len(ranks)
    numbers = sorted(nodes)
    there = nodes[numbers[(numbers.index(here) + (1 if key == "down" else -1)) % len(numbers)]]
    return there[min(mine.index(selected), len(there) - 1)]
