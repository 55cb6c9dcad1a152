"""Text of others made safe to show: names, messages of hosts, stderr of other programs. Pure.

A terminal interprets what it gets. An escape sequence in a message can hide lines, change earlier output, or put text
into the clipboard; a newline in a name forges a table row; a bidirectional control character misrepresents a path. The
output of ranks is not changed here: it is shown as it is.
"""

from __future__ import annotations

import sys
import unicodedata
from typing import Any

_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Unicode categories: control (C0, DEL, C1), format (bidi, zero width), surrogate, private use, line separators."""


def lines(text: str) -> str:
    """Return the text with all control characters except newlines and tabs made visible: `\\x1b[2J`."""
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text  # almost all texts
    return "".join(_visible(char) if char not in "\n\t" else char for char in text)


def line(text: object) -> str:
    """Return the text on one line, with control characters and newlines made visible; for sentences and tables."""
    return lines(str(text)).replace("\n", "\\n")


def _visible(char: str) -> str:
    if unicodedata.category(char) not in _HIDDEN:
        return char
    if "\udc80" <= char <= "\udcff":  # a byte that was not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape", "surrogatepass").decode()


class Styled(str):
    """Text of muster itself with escape sequences for colors. A guarded stream writes it unchanged.

    Never make one of text that others wrote.
    """


class _Safe:
    """A stream that makes control characters visible. Its bytes (`buffer`) are not changed."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, with control characters made visible."""
        self._stream.write(text if isinstance(text, Styled) else lines(text))
        return len(text)

    def writelines(self, texts: Any) -> None:
        """Write several texts."""
        for text in texts:
            self.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard() -> None:
    """Make control characters visible in everything that this process prints."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Safe):
            setattr(sys, name, _Safe(stream))
