"""Help texts: wrapped to the width of the terminal, in color on a terminal. Loads no table of options, so that
`muster --help` starts quickly."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.cli.commands import COMMANDS, LAB, Command
from muster.core.printable import Styled
from muster.ui.color import use_color

if TYPE_CHECKING:
    from muster.config.record import Option

_NARROW, _USUAL, _WIDE = 40, 80, 120
"""Columns: the least and most that lines are wrapped to, and the default without a terminal."""
_FEW = 12
"""Up to this number of options, one heading serves better than several."""
_INDENT = "  "

_TAGLINE = "launch one unchanged training script on any machines, with any launcher"
_RUNS = (
    "RUN is the id of a run, a unique prefix of the id, its name, or `last`. HOST:RUN is a run that was started from "
    "another machine and has its controller on HOST."
)
_DURATION = "DURATION is in seconds unless it has units: `90`, `10m`, `1h30m`, `2d`."
_OPTIONS = (("-h, --help", "show this help"), ("-V, --version", "show the versions of muster, Python and torch"))


class Page:
    """A help text in the making."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.width = _width(env)
        self._color = _color(env)
        self._column = min(30, max(20, self.width // 3))
        self._lines: list[str] = []

    def paragraph(self, text: str) -> None:
        """A paragraph, after an empty line."""
        self._lines += [*([""] if self._lines else []), *wrap(text, self.width)]

    def heading(self, text: str) -> None:
        """The heading of a section, after an empty line."""
        self._lines += ["", self._styled("1", f"{text}:")]

    def verbatim(self, lines: Iterable[str]) -> None:
        """Indented lines that are not wrapped, so that they can be copied."""
        self._lines += [_INDENT + line for line in lines]

    def row(self, name: str, value: str, text: str, column: int = 0) -> None:
        """A name, the placeholder of its value, and a text that is wrapped beside them."""
        column = column or self._column
        left = f"{_INDENT}{name} {value}".rstrip()
        lines = wrap(text, self.width - column)
        shown = _INDENT + self._styled("36", name) + left[len(_INDENT) + len(name) :]
        if len(left) > column - 2:
            self._lines.append(shown)
        else:
            self._lines.append(shown + " " * (column - len(left)) + lines.pop(0))
        self._lines += [" " * column + line for line in lines]

    def end(self, examples: Sequence[str], page: str) -> None:
        """The examples, and where to read more: the page that `page` names as a path, or all."""
        self.heading("Examples")
        self.verbatim(examples)
        self._lines += ["", f"{self._styled('1', 'Documentation:')} {_command_for(page)}"]

    def text(self) -> str:
        """The whole page."""
        return "\n".join(self._lines)

    def print(self) -> None:
        """Print the page on stdout."""
        sys.stdout.write(Styled(f"{self.text()}\n"))

    def _styled(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._color else text


def print_overview(env: Mapping[str, str]) -> None:
    """`muster --help`."""
    page, run = Page(env), COMMANDS["run"]
    page.paragraph(f"muster: {_TAGLINE}")
    page.heading("Usage")
    page.verbatim(_usage("run", run))
    page.verbatim(["muster COMMAND [OPTIONS]"])
    page.heading("Commands")
    _rows(page, ((name, command.summary) for name, command in COMMANDS.items()))
    page.heading("Options")
    _rows(page, _OPTIONS)
    page.paragraph(_RUNS)
    page.paragraph("`muster COMMAND --help` shows the options of a command.")
    page.end(run.examples, "")
    page.print()


def print_lab(env: Mapping[str, str]) -> None:
    """`muster lab --help`."""
    page, lab = Page(env), COMMANDS["lab"]
    page.paragraph(lab.summary)
    page.heading("Usage")
    page.verbatim(["muster lab COMMAND [OPTIONS]"])
    page.paragraph(lab.notes)
    page.heading("Commands")
    _rows(page, ((name, command.summary) for name, command in LAB.items()))
    page.paragraph("`muster lab COMMAND --help` shows the options of a command.")
    page.end(lab.examples, lab.page)
    page.print()


def print_command(name: str, command: Command, options: Sequence[Option[Any]], env: Mapping[str, str]) -> None:
    """`muster NAME --help`."""
    page = Page(env)
    page.paragraph(command.summary)
    page.heading("Usage")
    page.verbatim(_usage(name, command))
    for text in filter(None, command.notes.split("\n\n")):
        page.paragraph(text)
    add_options(page, options)
    page.end(command.examples, command.page)
    page.print()


def add_options(page: Page, options: Sequence[Option[Any]]) -> None:
    """The options, by group; all under one heading if there are few."""
    from muster.config.record import SHARED  # imported late: the list of commands has no options
    from muster.schedulers import SCHEDULERS, described, title

    shown = [option for option in options if option.group]
    keys = {option.key for option in shown}
    schedulers = [name for name in SCHEDULERS if name in keys]
    only = title(schedulers[0]) if len(schedulers) == 1 else SHARED
    groups = {option: only if option.group == SHARED else option.group for option in shown}
    for group in dict.fromkeys(groups.values()) if len(shown) > _FEW else ("",):
        page.heading(group or "Options")
        for option in shown:
            if group in ("", groups[option]):
                page.row(", ".join(option.names), option.metavar, described(option, schedulers))
    if any("DURATION" in option.metavar for option in shown):
        page.paragraph(_DURATION)


def wrap(text: str, width: int) -> list[str]:
    """Break a text into lines; `code` and a default stay on one line if they fit."""
    lines = [""]
    for piece in _pieces(text):
        for word in [piece] if len(piece) <= width else piece.split(" "):
            if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
                lines.append("")
            lines[-1] += f" {word}" if lines[-1] else word
            while len(lines[-1]) > width:
                lines[-1:] = lines[-1][:width], lines[-1][width:]
    return lines


def _pieces(text: str) -> list[str]:
    pieces: list[str] = []
    for word in text.split(" "):
        last = pieces[-1] if pieces else ""
        if last.count("`") % 2 or (last.startswith("(default:") and not last.endswith(")")):
            pieces[-1] += f" {word}"
        else:
            pieces.append(word)
    return pieces


def _usage(name: str, command: Command) -> list[str]:
    return [f"muster {name} [OPTIONS] {operands}".rstrip() for operands in command.operands]


def _rows(page: Page, rows: Iterable[tuple[str, str]]) -> None:
    rows = list(rows)
    column = max(len(name) for name, _ in rows) + 2 * len(_INDENT)
    for name, text in rows:
        page.row(name, "", text, column)


def _command_for(page: str) -> str:
    """Return the command that prints a page of the documentation, without one, which lists them."""
    return " ".join(["muster docs", *([Path(page).stem] if page else [])])


def _width(env: Mapping[str, str]) -> int:
    """Columns of the terminal, or COLUMNS; 80 without both."""
    columns = env.get("COLUMNS", "")
    found = int(columns) if columns.isascii() and columns.isdigit() and len(columns) < 6 else 0
    if not found:
        try:
            found = os.get_terminal_size(sys.stdout.fileno()).columns
        except (OSError, ValueError):  # no terminal
            found = _USUAL
    return max(_NARROW, min(found or _USUAL, _WIDE))


def _color(env: Mapping[str, str]) -> bool:
    """True for a terminal that shows colors, and where FORCE_COLOR asks for them; NO_COLOR comes first."""
    try:
        fd = sys.stdout.fileno()
    except (OSError, ValueError):  # not a file
        return False
    forced = env.get("FORCE_COLOR", "") not in ("", "0") and not env.get("NO_COLOR")
    return forced or use_color(fd, env)
