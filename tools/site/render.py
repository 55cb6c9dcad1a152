"""Build the documentation site: `python tools/site/render.py [DIRECTORY]` (default: build).

Zensical renders one directory of pages, but the start page is README.md, and other pages and the examples are outside
docs/. So the pages are first collected in DIRECTORY/pages. Their links are written for readers of the repository;
here they are changed to where things are on the site. The site is DIRECTORY/site. It is built only if there is no
warning, no broken link and no page that is missing in the navigation.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomllib
from links import faults

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

_LINK = re.compile(r"""(\]\(|\b(?:href|src|srcset)=["'])([^)\s"'#:]+)(?=[#)"'\s])""")

_FENCE = re.compile(r" *(`{3,}|~{3,})")
_ITEM = re.compile(r"(?:[-*+]|\d+\.) +")


def sources() -> dict[str, Path]:
    """Return what is on the site: each name in the directory of pages, with the file in the repository."""
    found = {"index.md": ROOT / "README.md"}
    found |= {path.name: path for path in ROOT.glob("*.md") if path.name != "README.md"}
    found |= {str(path.relative_to(ROOT / "docs")): path for path in (ROOT / "docs").rglob("*") if path.is_file()}
    found |= {f"examples/{path.name}": path for path in (ROOT / "examples").iterdir() if path.is_file()}
    return dict(sorted(found.items()))


def turned(text: str, name: str, source: Path, names: dict[Path, str]) -> str:
    """Return the text of the page `name` of the site, `source` in the repository, with its links and lists changed."""

    def turn(found: re.Match[str]) -> str:
        target = names.get((source.parent / found[2]).resolve())
        return found[1] + (os.path.relpath(target, Path(name).parent) if target else found[2])

    lines = []
    fence = ""
    items: list[int] = []  # of each open list item, the column at which its text begins
    closed = False
    for line in text.splitlines(keepends=True):
        if closed and line.strip() and items:  # Python-Markdown ends a block of code in a list at an empty line
            lines.append("\n")
        closed = False
        mark = _FENCE.match(line)
        indent = len(line) - len(line.lstrip(" "))
        while line.strip() and not fence and items and indent < items[-1]:
            items.pop()
        if line.strip() and items:  # Python-Markdown wants 4 columns for each level, others as many as the text has
            line = " " * (4 * len(items) + max(0, indent - items[-1])) + line.lstrip(" ")
        item = _ITEM.match(line.lstrip(" "))
        if item and not fence:
            items.append(indent + len(item[0]))
        lines.append(line if fence or mark else _LINK.sub(turn, line))
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence):
            fence = ""
            closed = True
    return "".join(lines)


def collect(pages: Path) -> None:
    """Write the pages, and what they show or link to, into an empty directory."""
    found = sources()
    names = {path.resolve(): name for name, path in found.items()}
    for name, source in found.items():
        target = pages / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".md":
            target.write_text(turned(source.read_text(), name, source, names))
        else:
            shutil.copyfile(source, target)


def listed(nav: Any) -> Iterator[str]:
    """Yield the pages of a navigation, in its order."""
    if isinstance(nav, str):
        yield nav
    else:
        for item in nav.values() if isinstance(nav, dict) else nav:
            yield from listed(item)


def nav_faults(nav: Any, pages: Path) -> list[str]:
    """Return the pages that are missing in the navigation, those that do not exist, and those listed twice.

    Zensical 0.0.73 reports none of them, also with --strict.
    """
    there = {str(path.relative_to(pages)) for path in pages.rglob("*.md")}
    named = list(listed(nav))
    wrong = [f"navigation: there is no page {name}" for name in named if name not in there]
    wrong += [f"navigation: {name} is missing in tools/site/zensical.toml" for name in sorted(there.difference(named))]
    return wrong + [f"navigation: {name} is listed twice" for name in sorted(set(named)) if named.count(name) > 1]


def build(directory: Path) -> list[str]:
    """Build the site in `directory`, and return what is wrong with it."""
    for name in ("pages", "site", "theme"):
        shutil.rmtree(directory / name, ignore_errors=True)
    collect(directory / "pages")
    shutil.copytree(HERE / "theme", directory / "theme")
    shutil.copyfile(HERE / "zensical.toml", directory / "zensical.toml")
    wrong = nav_faults(tomllib.loads((HERE / "zensical.toml").read_text())["project"]["nav"], directory / "pages")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    env = {**os.environ, "PYTHONPATH": str(HERE), "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True)
    if done.returncode or "No issues found" not in done.stderr:
        return [*wrong, done.stderr.partition("Traceback")[0].strip()]
    return wrong + faults(directory / "site")


def main() -> None:
    """Build the site, and exit with 1 if anything is wrong."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build").resolve()
    wrong = build(directory)
    print("\n".join(wrong), end="\n" if wrong else "", file=sys.stderr)
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
