"""`#SBATCH` lines: their options, and whether sbatch reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tree_sitter import Node

from muster.lint.model import Directive, Word
from muster.lint.options import read_options
from muster.lint.syntaxes import SBATCH
from muster.lint.values import Mapped, literals, span_of

_WORD = re.compile(r"""(?:[^\s"'#]|"[^"]*"|'[^']*'|(?<=\S)#)+""")


def read_directives(mapped: Mapped, first_command: int, comments: Sequence[Node]) -> tuple[Directive, ...]:
    """Return the options of the `#SBATCH` lines; those behind the first command are not effective."""
    found: list[Directive] = []
    component = 0
    for node in comments:
        text = mapped.text[node.start_byte : node.end_byte]
        begins = node.start_byte == 0 or mapped.text[node.start_byte - 1] == "\n"
        if not re.match(r"#SBATCH(\s|$)", text) or not begins:
            continue
        span = span_of(mapped.at, node.start_byte, node.end_byte)
        options, _ = read_options(SBATCH, words_of(mapped, node.start_byte + len("#SBATCH"), node.end_byte))
        component += bool(re.match(r"#SBATCH\s+(hetjob|packjob)\b", text))
        found += [Directive(option, span, node.start_byte < first_command, component) for option in options]
    return tuple(found)


def words_of(mapped: Mapped, start: int, end: int) -> list[Word]:
    """Split a directive into words, as sbatch does: quotes group, `#` begins a comment, `$` means nothing."""
    words = []
    text = mapped.text[start:end]
    comment = re.search(r"(?<=\s)#", re.sub(r"""("[^"]*"|'[^']*')""", lambda match: "x" * len(match[0]), text))
    text = text[: comment.start()] if comment else text
    for match in _WORD.finditer(text):
        at = start + match.start()
        value = re.sub(r"""["']""", "", match[0])
        span = span_of(mapped.at, at, at + len(match[0]))
        words.append(Word(tuple(literals(value, span.start, False, mapped.outer)), span))
    return words
