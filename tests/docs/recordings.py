"""Recordings: terminal sessions drawn as SVG images, narrow enough for a phone.

The session is in `<desc>`, as the lines of a shell block (see blocks.py); the picture is drawn from it alone. So a page
that shows a recording is tested as if the block stood there, and tools/session.py can run it again.
"""

from __future__ import annotations

import re
from html import escape, unescape
from pathlib import Path

COLUMNS = 60
"""Longer lines are wrapped, so that nothing is cut off or scrolls horizontally."""

_WIDTH, _HEIGHT, _MARGIN = 8.4, 20, 16
"""Width of a character, height of a line and margin, in pixels at a font size of 14."""
_STYLE = """
    text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
    text { fill: #d6dbe5; white-space: pre; }
    .prompt { fill: #7d8799; }
    .command { fill: #ffffff; font-weight: 600; }
    .rank { fill: #7aa2f7; }
    .muster { fill: #9ece6a; }
    .failed { fill: #ff8f8f; }
"""
_DESC = re.compile(r"<title>(.*?)</title>\s*<desc>\n(.*?)</desc>", re.DOTALL)
_SHOWN = re.compile(r"!\[[^\]]*\]\(([\w./-]+\.svg)\)")

_FAILURE = re.compile(r" failed |^muster: (all \d+ )?ranks? [\d,-]+[^:]*: ")
"""Lines of muster that say what failed."""


def session(svg: str) -> tuple[str, str] | None:
    """Return (title, lines of the session) of a recording; None for any other image."""
    found = _DESC.search(svg)
    return (unescape(found[1]), unescape(found[2])) if found else None


def shown(page: Path) -> list[Path]:
    """Return the recordings of a page, in order."""
    paths = [page.parent / name for name in _SHOWN.findall(page.read_text())]
    return [path for path in paths if session(path.read_text())]


def expanded(page: Path) -> str:
    """Return the text of a page with a shell block in place of each recording."""

    def block(image: re.Match[str]) -> str:
        found = session((page.parent / image[1]).read_text())
        return f"\n```console\n{found[1]}```\n" if found else image[0]

    return _SHOWN.sub(block, page.read_text())


def draw(title: str, lines: str) -> str:
    """Return the SVG recording of a session."""
    texts: list[str] = []
    row = 0
    typed = False
    for line in lines.splitlines():
        command = line.startswith("$ ") or typed
        typed = command and line.endswith("\\")
        for piece in _wrapped(line):
            row += 1
            column = 0
            for kind, part in _parts(line, piece, command):
                texts += _text(kind, part, column, row)
                column += len(part)
    width, height = COLUMNS * _WIDTH + 2 * _MARGIN, row * _HEIGHT + 2 * _MARGIN - 4
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}"'
        ' role="img">\n'
        f"  <title>{escape(title, quote=False)}</title>\n"
        f"  <desc>\n{escape(lines, quote=False)}</desc>\n"
        f"  <style>{_STYLE}  </style>\n"
        f'  <rect width="100%" height="100%" rx="8" fill="#1a1e29"/>\n' + "".join(texts) + "</svg>\n"
    )


def _wrapped(line: str) -> list[str]:
    """Split the line into pieces that fit, at spaces if possible."""
    pieces = []
    while len(line) > COLUMNS:
        at = line.rfind(" ", COLUMNS // 2, COLUMNS + 1) + 1 or COLUMNS
        pieces.append(line[:at].rstrip())
        line = line[at:]
    return [*pieces, line]


def _parts(line: str, piece: str, command: bool) -> list[tuple[str, str]]:
    """Return (class, text) of the parts of one piece of a line."""
    if command:
        prompt = "$ " if piece.startswith("$ ") else ""
        return [("prompt", prompt), ("command", piece[len(prompt) :])]
    rank = re.match(r"\[\d+\]", piece)
    if rank and piece == line[: len(piece)]:
        return [("rank", rank[0]), ("", piece[rank.end() :])]
    if line.startswith("muster:"):
        return [("failed" if _FAILURE.search(line) else "muster", piece)]
    return [("", piece)]


def _text(kind: str, part: str, column: int, row: int) -> list[str]:
    """Return a text element whose width does not depend on the reader's font."""
    stripped = part.strip()
    if not stripped:
        return []
    left = _MARGIN + (column + len(part) - len(part.lstrip())) * _WIDTH
    attributes = f'x="{left:.1f}" y="{_MARGIN + row * _HEIGHT - 6:g}" textLength="{len(stripped) * _WIDTH:.1f}"'
    of_class = f' class="{kind}"' if kind else ""
    return [f"  <text {attributes}{of_class}>{escape(stripped, quote=False)}</text>\n"]
