"""An extension of Python-Markdown for code within text.

- In a table it shows `|` where the source has `\\|`, as the repository does.
- Options are not broken at their hyphens, and names in tables not in the middle: `--nproc-per-node` stays on one line.
"""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, SubElement

from markdown import Markdown
from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor
from markdown.util import AtomicString

_LONGEST = 20
"""Longer words may be broken, so that two columns fit on the screen of a phone."""


class _Codes(Treeprocessor):
    def run(self, root: Element) -> None:
        cells = [code for cell in (*root.iter("td"), *root.iter("th")) for code in cell.iter("code")]
        for code in cells:
            code.text = AtomicString((code.text or "").replace("\\|", "|"))
            self._keep_whole(code, r"\S{2,}")
        for code in set(root.iter("code")).difference(cells):
            self._keep_whole(code, r"\S*-\S*")

    def _keep_whole(self, code: Element, words: str) -> None:
        first, *others = re.split(rf"(?<!\S)({words})(?!\S)", code.text or "")
        code.text = AtomicString(first)
        for word, after in zip(others[::2], others[1::2]):
            span = SubElement(code, "span", {"class": "whole"} if len(word) <= _LONGEST else {})
            span.text = AtomicString(word)
            span.tail = AtomicString(after)


class _InlineCode(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        # below the priority of the processor that makes <code> elements (20)
        md.treeprocessors.register(_Codes(md), "inline_code", 15)


def makeExtension() -> Extension:
    """Return the extension, by the name that Python-Markdown looks for."""
    return _InlineCode()
