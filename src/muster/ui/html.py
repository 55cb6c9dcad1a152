"""Pages of HTML that need nothing else: the style, in light and dark, and the parts that several pages have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from muster.core.printable import lines as visible

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60646c; --line: #d9dce1; --ground: #fff; --panel: #f6f7f9;
  --good: #18794e; --bad: #ce2c31; --warn: #ab6400;
  --s0: #9aa0a8; --s1: #0b68cb; --s2: #b54708; --s3: #8e4ec6; --s4: #0e7c86; }
@media (prefers-color-scheme: dark) { :root { --ink: #edeef0; --soft: #b0b4ba; --line: #363a3f; --ground: #111113;
  --panel: #18191b; --good: #3dd68c; --bad: #ff9592; --warn: #ffca16;
  --s0: #777b84; --s1: #70b8ff; --s2: #ffa057; --s3: #d19dff; --s4: #4ccce6; } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem }
p { margin: .25rem 0; color: var(--soft) } code { font-size: .9em; overflow-wrap: anywhere }
.all { font-size: 1.15rem; font-weight: 600; margin: .75rem 0 } .good { color: var(--good) } .bad { color: var(--bad) }
.wide { overflow-x: auto; margin: .75rem 0 }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums }
th { text-align: left; font-weight: 600; color: var(--soft) }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; white-space: nowrap }
figure { margin: 1rem 0; padding: 1rem; background: var(--panel); border-radius: .5rem }
figcaption { font-size: .875rem; color: var(--soft); margin-top: .5rem }
svg { display: block; width: 100%; height: auto } svg text { font: 12px system-ui, sans-serif; fill: var(--soft) }
"""
"""The common style. Colors are variables, which differ between light and dark."""


def page(title: str, style: str, body: Iterable[str]) -> str:
    """Return a page; `title` is text, `style` is added to the common one, `body` is HTML."""
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{shown(title)}</title><style>{STYLE}{style}</style></head><body>",
    )
    return "\n".join([*head, *body, "</body></html>", ""])


def shown(text: object) -> str:
    """Return text for HTML, with control characters made visible."""
    return escape(visible(str(text)))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of texts, which scrolls sideways by itself if it is wide."""
    lines = ["".join(f"<td>{shown(word)}</td>" for word in row) for row in rows]
    head = "".join(f"<th>{shown(word)}</th>" for word in heads)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
