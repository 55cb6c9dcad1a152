"""From nodes of the syntax tree to words: quotes, escapes and expansions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Callable

from tree_sitter import Node

from muster.lint.model import Command, Expansion, Literal, Part, Shell, Span, Word
from muster.lint.values import Mapped, literals, names_in, span_of

_EXPANSIONS = frozenset(
    {"simple_expansion", "expansion", "command_substitution", "process_substitution", "arithmetic_expansion"}
)
_ESCAPES = {
    "double": re.compile(r"\\([$`\"\\\n])"),
    "heredoc": re.compile(r"\\([$`\\\n])"),
    "plain": re.compile(r"\\(.|\n)", re.DOTALL),
    "backtick": re.compile(r"\\([$`\\])"),
}
_BRACED = re.compile(r"\$\{([#!]?)([A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?!$-])(\[[^\]]*\])?(.*)\}", re.DOTALL)
_VARIABLE = re.compile(r"\$\{?!?#?([A-Za-z_]\w*)")


class Reader:
    """Makes words of nodes of one parsed text."""

    def __init__(self, mapped: Mapped, shell: Shell, substituted: Callable[[Node], tuple[Command, ...]]) -> None:
        self.mapped = mapped
        self.shell = shell
        self._substituted = substituted

    def span(self, node: Node) -> Span:
        """The part of the file that a node stands for."""
        return span_of(self.mapped.at, node.start_byte, node.end_byte)

    def text(self, node: Node) -> str:
        """The text of a node."""
        return self.mapped.text[node.start_byte : node.end_byte]

    def plain(self, node: Node) -> Word:
        """A word without quotes and expansions."""
        return Word((Literal(self.text(node), self.span(node).start),), self.span(node))

    def bare(self, node: Node) -> Word:
        """A word without its expansions being visited."""
        text = self.text(node)
        return self.plain(node) if "$" not in text and "`" not in text else Word((), self.span(node))

    def word(self, node: Node) -> Word:
        """The word that a node stands for."""
        return Word(tuple(self._parts(node)), self.span(node))

    def assignment(self, node: Node) -> Word:
        """`X=value` as a word, as export takes it; the value of an array is left out."""
        name, value = node.child_by_field_name("name"), node.child_by_field_name("value")
        assert name is not None
        head = Literal(f"{self.text(name)}=", self.span(name).start)
        rest = () if value is None or value.type == "array" else tuple(self._quiet(value))
        return Word((head, *rest), self.span(node))

    def heredoc(self, node: Node, literal: bool) -> Word:
        """The text of a heredoc."""
        if literal:
            parts = literals(self.text(node), self.span(node).start, True, self.mapped.outer)
            return Word(tuple(parts), self.span(node))
        return Word(tuple(self._between(node, node.start_byte, node.end_byte, "heredoc")), self.span(node))

    def _quiet(self, node: Node) -> list[Part]:
        """The parts of a node whose commands were visited already."""
        visit, self._substituted = self._substituted, lambda node: ()
        parts = list(self._parts(node))
        self._substituted = visit
        return parts

    def _parts(self, node: Node) -> Iterator[Part]:
        kind = node.type
        if kind in _EXPANSIONS:
            yield self._expansion(node, quoted=False)
        elif kind == "raw_string":
            yield from self._literal(node.start_byte + 1, node.end_byte - 1, "")
        elif kind == "ansi_c_string":
            yield from self._literal(node.start_byte + 2, node.end_byte - 1, "ansi")
        elif kind == "string":
            end = node.end_byte - 1 if self.text(node).endswith('"') else node.end_byte
            yield from self._between(node, node.start_byte + 1, end, "double")
        elif kind in ("concatenation", "command_name", "translated_string", "brace_expression"):
            yield from self._joined(node)
        elif node.named_child_count and any(child.type in _EXPANSIONS for child in node.named_children):
            yield from self._between(node, node.start_byte, node.end_byte, "plain")
        else:
            yield from self._literal(node.start_byte, node.end_byte, "plain")

    def _joined(self, node: Node) -> Iterator[Part]:
        position = node.start_byte
        for child in node.children:
            if child.type == "$":  # $"…"
                position = child.end_byte
                continue
            if child.start_byte > position:
                yield from self._literal(position, child.start_byte, "plain")
            yield from self._parts(child)
            position = child.end_byte
        if position < node.end_byte:
            yield from self._literal(position, node.end_byte, "plain")

    def _between(self, node: Node, start: int, end: int, mode: str) -> Iterator[Part]:
        """The text from start to end with the expansions in it; the tree leaves some of the text out."""
        position = start
        found = False
        for child in _expansions(node):
            begin = self._begin(child)
            if begin > position:
                yield from self._literal(position, begin, mode)
            yield self._expansion(child, quoted=mode != "plain")
            found = True
            position = child.end_byte
        if position < end or not found:
            yield from self._literal(position, max(end, position), mode)

    def _literal(self, start: int, end: int, mode: str) -> Iterator[Part]:
        """A text without expansions, in pieces that stand in the file as they are."""
        quoted = mode != "plain"
        text, at = self.mapped.text, self.mapped.at
        pattern = _ESCAPES.get(mode)
        position = start
        made = False
        for match in pattern.finditer(text, start, end) if pattern else ():
            if match.start() > position:
                yield from self._piece(position, match.start(), quoted)
                made = True
            if match[1] != "\n":
                yield Literal(match[1], at[match.start() + 1], True)
                made = True
            position = match.end()
        if position < end:
            yield from self._piece(position, end, quoted)
        elif not made:
            yield Literal("", at[min(start, len(at) - 1)] if at else 0, quoted)

    def _piece(self, start: int, end: int, quoted: bool) -> Iterator[Part]:
        text, at = self.mapped.text[start:end], self.mapped.at[start]
        yield from literals(text, at, quoted, self.mapped.outer)

    def _begin(self, node: Node) -> int:
        """Where an expansion starts. In `"$A $B"` the grammar counts the space as a part of the second."""
        text = self.text(node)
        return node.start_byte + len(text) - len(text.lstrip())

    def _expansion(self, node: Node, quoted: bool) -> Expansion:
        begin = self._begin(node)
        text = self.mapped.text[begin : node.end_byte]
        span = span_of(self.mapped.at, begin, node.end_byte)
        outer = re.fullmatch(r"\$\{__muster_([0-9]+)\}", text)
        if outer and self.mapped.outer:
            return self.mapped.outer[int(outer[1])]._replace(quoted=quoted)
        arithmetic = text.startswith("$((") and text.endswith("))")  # in heredocs the tree has a command there
        if node.type in ("command_substitution", "process_substitution") and not arithmetic:
            kind = node.type.partition("_")[0]
            commands = self._substituted(node)
            names = dict.fromkeys(name for command in commands for word in command.argv for name in word.names)
            return Expansion(kind, "", span, self.shell, quoted, tuple(names), commands, self._shown(text))
        if arithmetic or node.type == "arithmetic_expansion":
            return Expansion("arithmetic", "", span, self.shell, quoted, names_in(text), (), self._shown(text))
        if node.type == "simple_expansion":
            name = text[1:]
            return Expansion("variable", name, span, self.shell, quoted, (name,), (), text)
        return self._braced(text, span, quoted)

    def _shown(self, text: str) -> str:
        """The text of an expansion with the source of what an enclosing shell expands in it."""
        return (
            re.sub(r"\$\{__muster_([0-9]+)\}", lambda match: self.mapped.outer[int(match[1])].source, text)
            if self.mapped.outer
            else text
        )

    def _braced(self, text: str, span: Span, quoted: bool) -> Expansion:
        match = _BRACED.fullmatch(text)
        names = tuple(dict.fromkeys(_VARIABLE.findall(text)))
        if match is None:
            return Expansion("modified", "", span, self.shell, quoted, names, (), text)
        mark, name, index, rest = match.groups()
        kind, fallback = "variable", None
        if mark or (rest and not rest.lstrip(":").startswith(("-", "="))):
            kind = "modified"
        elif index in ("[@]", "[*]"):
            kind = "modified" if rest else "array" if index == "[@]" else "joined"
        elif index:
            kind, fallback = "element", index[1:-1]
        elif rest:
            kind = "default"
            value = rest.lstrip(":")[1:]
            fallback = value if not re.search(r"[$`]", value) else None
            fallback = fallback.strip("\"'") if fallback is not None else None
        names = tuple(dict.fromkeys((name, *names)))
        return Expansion(kind, name, span, self.shell, quoted, names, (), self._shown(text), fallback)


def _expansions(node: Node) -> Iterator[Node]:
    """The outermost expansions in a node, in order."""
    for child in node.children:
        if child.type in _EXPANSIONS:
            yield child
        else:
            yield from _expansions(child)
