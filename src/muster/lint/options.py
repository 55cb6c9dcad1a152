"""Reads the options of a command line. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from muster.lint.model import Option, Span, Word
from muster.lint.syntaxes import ALIASES, WRAPPERS, Syntax


def read_options(syntax: Syntax, words: Sequence[Word], operands: int = 0) -> tuple[tuple[Option, ...], int]:
    """Return the options at the beginning of `words`, and how many words they are.

    An unknown word that may stand for options, such as `$ARGS`, gives an option with the name `?`, unless the program
    has `operands` of its own, as ssh has a host.
    """
    found: list[Option] = []
    position = 0
    while position < len(words):
        word = words[position]
        start = word.start
        if word.text == "--":
            return tuple(found), position + 1
        if not start.startswith("-") or start == "-":
            if not operands and not start and _are_options(words, position):
                found.append(Option("?", word, word.span))
                position += 1
                continue
            break
        position += _option(syntax, words, position, found)
    return tuple(found), min(position, len(words))


_COMMANDS = re.compile(r"cmd|command|launch|prog|exe|run|script|python|train|binary|main", re.IGNORECASE)
_ARGUMENTS = re.compile(r"arg|opt|flag|param", re.IGNORECASE)


def _are_options(words: Sequence[Word], position: int) -> bool:
    """An unknown word is taken for options by its name and by what follows."""
    word, only = words[position], words[position].only
    if only is None or not word.may_split or only.kind == "command":
        return False
    if only.kind in ("array", "joined") or only.name in ("@", "*"):
        return True
    if _ARGUMENTS.search(only.name) and not only.quoted:
        return True
    if _COMMANDS.search(only.name) or position + 1 == len(words):
        return False
    after = words[position + 1]
    if (after.text or "").endswith(".py"):
        return True
    return after.start.startswith("-") or (after.text or "").rpartition("/")[2] in (*WRAPPERS, *ALIASES, "python3")


def _option(syntax: Syntax, words: Sequence[Word], position: int, found: list[Option]) -> int:
    """Add the option that begins at a word; return the number of words that it takes."""
    word = words[position]
    text = word.start
    name, equals, _ = text.partition("=")
    long = name.startswith("--") or ((syntax.single or len(name) > 2) and syntax.single)
    if long:
        full = canonical(syntax, name)
        if equals:
            found.append(Option(full, word.after(len(name) + 1), word.span))
            return 1
        if len(word.parts) > 1 and word.text is None and not equals:
            found.append(Option("?", word, word.span))
            return 1
        return _long(syntax, full, words, position, found)
    if syntax.argparse and len(name) > 2:  # -mXYZ is no form that people write; `-rdzv` is a mistake
        found.append(Option(name, None, word.span))
        return 1
    for number in range(1, len(text)):
        letter = text[number]
        if letter in syntax.short:
            rest = word.after(number + 1)
            if rest.parts:
                value = rest.after(1) if rest.start.startswith("=") and syntax.argparse else rest
                found.append(Option(syntax.short[letter], value, word.span))
                return 1
            if position + 1 < len(words):
                found.append(Option(syntax.short[letter], words[position + 1], _over(word, words[position + 1])))
                return 2
            found.append(Option(syntax.short[letter], None, word.span))
            return 1
        found.append(Option(syntax.short_flags.get(letter, f"-{letter}"), None, word.span))
        if letter in "KbIE" and number == 1 and len(text) > 2 and not text[2].isalpha():  # srun -K1
            return 1
    return 1


def _long(syntax: Syntax, full: str, words: Sequence[Word], position: int, found: list[Option]) -> int:
    word = words[position]
    if full in syntax.pairs:
        end = min(position + 2, len(words) - 1)
        value = Word(
            tuple(part for inner in words[position + 1 : end + 1] for part in inner.parts), _over(word, words[end])
        )
        found.append(Option(full, value, _over(word, words[end])))
        return end - position + 1
    if full in syntax.flags or not _takes_next(words, position):
        found.append(Option(full, None, word.span))
        return 1
    found.append(Option(full, words[position + 1], _over(word, words[position + 1])))
    return 2


def _takes_next(words: Sequence[Word], position: int) -> bool:
    return position + 1 < len(words) and not words[position + 1].start.startswith("--")


def canonical(syntax: Syntax, name: str) -> str:
    """The canonical long name: hyphens for underscores where they are the same, two hyphens, one spelling."""
    full = f"--{name.lstrip('-')}"
    if syntax.argparse:
        full = full.replace("_", "-")
    return syntax.same.get(full, full)


def _over(first: Word, last: Word) -> Span:
    if first.span.start <= last.span.end and last.span.start >= first.span.start:
        return Span(first.span.start, last.span.end)
    return first.span  # one of them is from a variable
