"""`muster docs`: the pages of the documentation, which are installed with muster."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import muster
from muster.cli.commands import COMMANDS
from muster.cli.help import print_command
from muster.config.command_options import DocsOptions
from muster.config.parse import parse
from muster.core.suggestions import nearest
from muster.errors import InvalidRequest
from muster.ui.formatting import table

_SKIPPED = ("reference",)
"""Folders without pages to read in a terminal: `--help` prints what they say."""


def docs(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Print a page as Markdown, or the list of pages."""
    parsed = parse(words, DocsOptions.table, interleaved=True, command="docs")
    if parsed.options.get("help"):
        print_command("docs", COMMANDS["docs"], DocsOptions.table, env)
        return 0
    operands, found = parsed.operands, pages()
    if not found:
        raise InvalidRequest("the documentation is not installed with this muster", "read it in muster's repository")
    if len(operands) > 1:
        raise InvalidRequest(f"`muster docs` prints one page, got: {' '.join(operands)}", "name one page")
    if not operands:
        print(table([("PAGE", "TITLE"), *((name, _title(path)) for name, path in found.items())]))
        return 0
    name = operands[0].rpartition("/")[2].removesuffix(".md")
    if name not in found:
        near = nearest(name, found)
        raise InvalidRequest(
            f"no such page: {operands[0]}",
            f"did you mean `muster docs {near}`?" if near else "`muster docs` lists them",
        )
    # comments are for the tests of the page
    print(re.sub(r"^<!-- .* -->\n+", "", found[name].read_text(encoding="utf-8"), flags=re.MULTILINE), end="")
    return 0


def pages() -> dict[str, Path]:
    """Return the pages by name; empty if they are not installed, as in `muster.pyz`."""
    package = Path(muster.__file__).parent
    for folder in (package / "docs", package.parents[1] / "docs"):  # a wheel; a clone
        if folder.is_dir():
            found = (path for path in folder.rglob("*.md") if path.parent.name not in _SKIPPED)
            return {path.stem: path for path in sorted(found, key=lambda path: path.stem)}
    return {}


def _title(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").rstrip().replace("`", "")
