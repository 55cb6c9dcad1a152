"""Values of variables in a script: what is known of them, and the expansion of words by it. Pure."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Callable, NamedTuple, Optional, Union

from muster.lint.model import Expansion, Literal, Part, Span, Word


class Array(NamedTuple):
    """The value of an array."""

    items: tuple[Word, ...]


Value = Optional[Union[Word, Array]]
"""A string, an array, or None if it is not known."""
Values = dict[str, Value]
"""By the name of the variable. Variables that the script does not set are absent."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLACEHOLDER = re.compile(r"\$\{__muster_([0-9]+)\}")
_SPACES = re.compile(r"[ \t\n]+")
_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class Mapped(NamedTuple):
    """A text that is parsed as a script, and where each of its characters stands in the file."""

    text: str
    at: Sequence[int]
    outer: tuple[Expansion, ...] = ()
    """What an enclosing shell has expanded in it: `${__muster_0}` stands for the first of them, and so on."""


def assemble(words: Iterable[Word]) -> Mapped:
    """Join words by spaces to the text of a script."""
    text: list[str] = []
    at: list[int] = []
    outer: list[Expansion] = []
    for word in words:
        if text:
            text.append(" ")
            at.append(at[-1])
        for part in word.parts:
            if isinstance(part, Literal):
                text.append(part.text)
                at += range(part.at, part.at + len(part.text))
            else:
                name = f"${{__muster_{len(outer)}}}"
                outer.append(part)
                text.append(name)
                at += [part.span.start] * len(name)
    return Mapped("".join(text), at, tuple(outer))


def literals(text: str, at: int, quoted: bool, outer: Sequence[Expansion]) -> list[Part]:
    """The parts of a known text, in which placeholders may stand for expansions of an enclosing shell."""
    parts: list[Part] = []
    position = 0
    for match in _PLACEHOLDER.finditer(text) if outer else ():
        if match.start() > position:
            parts.append(Literal(text[position : match.start()], at + position, quoted))
        parts.append(outer[int(match[1])]._replace(quoted=quoted))
        position = match.end()
    if position < len(text) or not parts:
        parts.append(Literal(text[position:], at + position, quoted))
    return parts


def expand(word: Word, values: Values) -> list[Word]:
    """The words that a word becomes: known variables replaced, unquoted ones split, arrays spread."""
    done: list[list[Part]] = [[]]
    solid = False
    for part in word.parts:
        if isinstance(part, Literal):
            done[-1].append(part)
            solid = solid or part.quoted or bool(part.text)
            continue
        value = known(part, values)
        if value is None:
            done[-1].append(part)
            solid = True
        elif isinstance(value, Array):
            solid = _spread(value.items, part, done) or solid or part.kind == "joined"
        elif part.quoted:
            done[-1] += [inner._replace(quoted=True) for inner in value.parts]
            solid = True
        else:
            solid = _split(value, done) or solid
    words = [Word(tuple(parts), _place(parts, word.span)) for parts in done]
    return [item for item in words if item.parts] if len(words) > 1 or not solid else words


def _place(parts: Sequence[Part], span: Span) -> Span:
    """Where a word is written: in the value of a variable, if none of it is where the variable is used."""
    starts = [part.at if isinstance(part, Literal) else part.span.start for part in parts if _has_text(part)]
    if not starts or any(span.start <= start < span.end for start in starts):
        return span
    last = parts[-1]
    end = last.at + len(last.text) if isinstance(last, Literal) else last.span.end
    return Span(starts[0], end if end > starts[0] else starts[0] + 1)


def _has_text(part: Part) -> bool:
    return isinstance(part, Expansion) or bool(part.text)


def expand_whole(word: Word, values: Values) -> Word:
    """Replace known variables without splitting, as in an assignment; an array gives its words with spaces."""
    parts: list[Part] = []
    for part in word.parts:
        value = known(part, values) if isinstance(part, Expansion) else None
        if isinstance(value, Word):
            parts += value.parts
        elif isinstance(value, Array):
            for number, item in enumerate(value.items):
                if number:
                    parts.append(Literal(" ", word.span.start, True))
                parts += item.parts
        else:
            parts.append(part)
    return Word(tuple(parts), word.span)


def _spread(items: tuple[Word, ...], part: Expansion, done: list[list[Part]]) -> bool:
    for number, item in enumerate(items):
        if number and part.kind == "joined" and part.quoted:
            done[-1].append(Literal(" ", part.span.start, True))
        elif number:
            done.append([])
        if part.quoted:
            done[-1] += item.parts
        else:
            _split(item, done)
    return bool(items)


def _split(value: Word, done: list[list[Part]]) -> bool:
    """Split a value at spaces, as the shell does with an unquoted variable. Quotes in it are ordinary characters."""
    something = False
    for part in value.parts:
        if isinstance(part, Expansion):
            done[-1].append(part._replace(quoted=False))
            something = True
            continue
        position = 0
        for match in _SPACES.finditer(part.text):
            if match.start() > position:
                done[-1].append(Literal(part.text[position : match.start()], part.at + position))
                something = True
            if done[-1]:
                done.append([])
            position = match.end()
        if position < len(part.text):
            done[-1].append(Literal(part.text[position:], part.at + position))
            something = True
    return something


def known(part: Expansion, values: Values) -> Value:
    """The value of an expansion; None if it is not known."""
    if part.kind == "arithmetic":
        return _computed(part, values)
    if part.kind not in ("variable", "default", "array", "joined", "element"):
        return None
    value = values.get(part.name)
    if value is None:
        return None
    if part.kind in ("array", "joined"):
        return value if isinstance(value, Array) else Array((value,))
    if part.kind == "element":
        index = part.fallback or ""
        if isinstance(value, Array) and index.isdigit():
            return value.items[int(index)] if int(index) < len(value.items) else None
        return value if index == "0" and isinstance(value, Word) else None
    if isinstance(value, Array):
        if part.name in ("@", "*"):
            return value
        return value.items[0] if value.items else None
    if part.kind == "default" and value.text == "" and part.fallback is not None:
        return Word((Literal(part.fallback, part.span.start),), part.span)
    return value


def _computed(part: Expansion, values: Values) -> Word | None:
    text = part.source[3:-2]
    for name in part.names:
        value = values.get(name)
        number = value.text if isinstance(value, Word) else None
        if number is None or not number.isdigit():
            return None
        text = re.sub(rf"\$\{{{name}\}}|\$?\b{name}\b", number.lstrip("0") or "0", text)
    result = computed(text)
    return None if result is None else Word((Literal(result, part.span.start, part.quoted),), part.span)


def computed(text: str) -> str | None:
    """Return the value of an arithmetic expression of numbers; None if it is not one."""
    try:
        return str(_number(ast.parse(text.strip().replace("/", "//"), mode="eval").body))
    except (SyntaxError, ValueError, ZeroDivisionError, KeyError, RecursionError, MemoryError, OverflowError):
        return None


def _number(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_number(node.left), _number(node.right))
    raise ValueError


def with_arguments(values: Values, words: Sequence[Word]) -> Values:
    """The values in a function, or after `shift`, with these arguments."""
    found = {name: value for name, value in values.items() if not is_argument(name)}
    found.update({str(number): word for number, word in enumerate(words, 1)})
    return {**found, "@": Array(tuple(words)), "*": Array(tuple(words))}


def is_argument(name: str) -> bool:
    """True for the names of arguments of a script or function: `1`, `@`."""
    return name.isdigit() or name in ("@", "*")


def add(old: Value, new: Value) -> Value:
    """The value after `+=`."""
    if old is None or new is None:
        return None
    if isinstance(old, Array):
        return Array((*old.items, *new.items)) if isinstance(new, Array) else None
    return Word((*old.parts, *new.parts), new.span) if isinstance(new, Word) else None


def merge(branches: Sequence[Values]) -> Values:
    """What is known after one of several branches was executed: what is the same in all of them."""
    merged: Values = {}
    for name in {name for values in branches for name in values}:
        found = [values.get(name) for values in branches]
        same = all(name in values for values in branches) and len({_comparable(value) for value in found}) == 1
        merged[name] = found[0] if same else None
    return merged


def _comparable(value: Value) -> object:
    if value is None:
        return None
    if isinstance(value, Array):
        return tuple(_comparable(item) for item in value.items)
    return tuple(part.text if isinstance(part, Literal) else part for part in value.parts)


def names_in(text: str) -> tuple[str, ...]:
    """The variables that an arithmetic expression reads."""
    return tuple(dict.fromkeys(_NAME.findall(re.sub(r"\b0[xX][0-9a-fA-F]+\b|\b[0-9]+#\w+", " ", text))))


def span_of(at: Sequence[int], start: int, end: int) -> Span:
    """The part of the file that a part of a mapped text stands for."""
    if not at:
        return Span(0, 0)
    first = at[min(start, len(at) - 1)]
    last = at[min(max(end - 1, start), len(at) - 1)] + 1
    return Span(first, last if last > first else first + 1)
