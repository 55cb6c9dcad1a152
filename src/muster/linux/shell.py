"""Words for shells: the one function that quotes.

Any text is quoted, whatever characters it has. Bytes that are no text arrive as surrogates (`os.fsdecode`), and leave
as the same bytes if the whole is encoded with `os.fsencode`, as `subprocess` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

SH = "sh"
"""Any POSIX shell. The word may span lines."""
ONE_LINE = "one line"
"""bash and its like, for people to read: the word is on one line, with `$'…'` if it has to be."""
SBATCH = "sbatch"
"""The rest of an #SBATCH line. sbatch takes a backslash for an escape even in single quotes, and knows no `$'…'`."""

_SAFE = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\", "'": "\\'"}


def quote(text: str, reader: str = SH) -> str:
    """Return a word that this reader takes for exactly this text.

    Raises ValueError for what no such word can hold: NUL, and for sbatch a newline.
    """
    if "\0" in text or (reader == SBATCH and "\n" in text):
        raise ValueError(f"cannot be quoted for {reader}: {text!r}")
    if _SAFE.fullmatch(text):
        return text
    if reader == SBATCH:
        text = text.replace("\\", "\\\\")
    elif reader == ONE_LINE:
        if not text.isprintable():
            return "$'" + "".join(map(_escaped, text)) + "'"
        if "'" in text and not set(text) & set('"$`\\!'):
            return f'"{text}"'
    return "'" + text.replace("'", "'\"'\"'") + "'"


def join(words: Iterable[str], reader: str = SH) -> str:
    """Return a command line of these words."""
    return " ".join(quote(word, reader) for word in words)


def _escaped(letter: str) -> str:
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    if letter.isprintable():
        return letter
    return "".join(f"\\x{byte:02x}" for byte in letter.encode("utf-8", "surrogateescape"))
