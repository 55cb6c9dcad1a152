"""Reads the commands of a shell for the model: words, assignments, redirections, and the scripts inside of commands.

`parse.py` visits the statements around them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

from muster.lint import nodes
from muster.lint.model import (
    Assignment,
    Block,
    Command,
    Comment,
    Heredoc,
    Literal,
    Redirect,
    Script,
    Shell,
    Source,
    Span,
    Word,
)
from muster.lint.programs import program_name, programs_of
from muster.lint.values import (
    Array,
    Mapped,
    Value,
    Values,
    add,
    assemble,
    expand,
    expand_whole,
    is_argument,
    with_arguments,
)
from muster.lint.words import Reader

BATCH_NAMES = (".sbatch", ".slurm", ".slrm", ".sl", ".batch")
"""How names of batch scripts end."""
DIRECTIVE = re.compile(r"^#SBATCH\s|^# +SBATCH +-", re.MULTILINE)
_SETTERS = frozenset({"read", "mapfile", "readarray", "getopts", "unset", "wait"})
_DEPTH = 6
"""Scripts in scripts are read down to this depth."""


@lru_cache(maxsize=1)
def _parser() -> Parser:
    return Parser(Language(tree_sitter_bash.language()))


class Place(NamedTuple):
    """Where a statement stands."""

    background: bool = False
    loop: str = ""
    loop_stdin: bool = False
    function: str = ""
    conditional: bool = False
    subshell: bool = False
    piped_from: str = ""
    piped_to: str = ""
    blocks: tuple[Block, ...] = ()


class Numbers:
    """Numbers of shells."""

    def __init__(self) -> None:
        self.last = 0

    def next(self) -> int:
        """The next number."""
        self.last += 1
        return self.last


class CommandReader:
    """What is known of one shell, and how its commands are read; `parse.py` adds how its statements are visited."""

    def __init__(
        self, source: Source, mapped: Mapped, shell: Shell, values: Values, numbers: Numbers, depth: int = 0
    ) -> None:
        self.source = source
        self.mapped = mapped
        self.shell = shell
        self.values = values
        self.numbers = numbers
        self.depth = depth
        self.words = Reader(mapped, shell, self._substituted)
        self.commands: list[Command] = []
        self.assignments: list[Assignment] = []
        self.comments: list[Comment] = []
        self.heredocs: list[Heredoc] = []
        self.nested: list[Script] = []
        self.errors: list[Span] = []
        self.bodies: dict[str, Node] = {}
        self.called: set[str] = set()
        self.exported: set[str] = set()
        self.place = Place()
        # one byte for each character, so that offsets in bytes are offsets in the text
        self._tree = _parser().parse(re.sub(r"[^\x00-\x7f]", "x", mapped.text).encode())
        self.root = self._tree.root_node

    # what a subclass does

    def script(self) -> Script:
        """Visit everything and return the model."""
        raise NotImplementedError

    def visit(self, node: Node, place: Place) -> None:
        """Visit a statement."""
        raise NotImplementedError

    def visit_all(self, node: Node, place: Place) -> None:
        """Visit the statements in a node."""
        raise NotImplementedError

    def call(self, name: str, place: Place, apart: bool = False, args: Sequence[Word] | None = None) -> None:
        """Visit the body of a function; `args` are its arguments, if they are the same in all calls."""
        raise NotImplementedError

    # commands

    def command(self, node: Node | None, place: Place, redirects: Sequence[Node], around: Node | None = None) -> None:
        """Add a simple command, with what it redirects and what is inside of it."""
        children = list(node.named_children) if node is not None else []
        declares = node is not None and node.type in ("declaration_command", "unset_command")
        temporary: list[Assignment] = []
        words: list[Word] = []
        if declares:
            assert node is not None
            words.append(self.words.plain(node.children[0]))
            self._declare(node, place, words)
        elif node is not None and node.type == "test_command":
            words = [self.words.plain(node.children[0]), *(self.words.word(child) for child in nodes.operands(node))]
        else:
            for child in children:
                if child.type == "variable_assignment":
                    temporary.append(self.assign(child, place, temporary=True))
                elif "redirect" in child.type:
                    redirects = (*redirects, child)
                else:
                    words.append(self.words.word(child))
        words += [self.words.word(child) for child in nodes.stray_words(redirects)]
        argv = [word for item in words for word in expand(item, self.values)]
        split = programs_of(argv)
        whole = node if node is not None else around
        assert whole is not None
        command = Command(
            tuple(words),
            tuple(argv),
            split.programs,
            tuple(temporary),
            tuple(self.redirect(child) for child in nodes.redirects(redirects)),
            self.words.span(whole),
            self.shell,
            place.background,
            place.piped_to,
            place.piped_from,
            place.loop,
            place.loop_stdin,
            place.function,
            place.conditional,
            place.subshell,
            place.blocks,
        )
        self.commands.append(command)
        self._effects(command, place)
        if split.inner is not None:
            kind = self.shell.kind if split.inner.kind == "local" else split.inner.kind
            self.inside(kind, command, assemble(split.inner.words), place)
        self.read_heredocs(redirects, command, place, split.reads_stdin)

    def _effects(self, command: Command, place: Place) -> None:
        """Note what a command does to variables, and visit the function that it calls."""
        name = command.name
        texts = [word.text or "" for word in command.argv[1:]]
        if name in _SETTERS:
            for text in texts:
                self.values[text] = None
            if name in ("read", "mapfile", "readarray"):
                self.assignments += [
                    Assignment(text, None, (), command.span, self.shell, conditional=place.conditional)
                    for text in texts
                    if text and not text.startswith("-")
                ]
        elif name == "printf" and texts[:1] == ["-v"] and len(texts) > 1:
            self.values[texts[1]] = None
        elif name in ("export", "declare", "typeset") and "-f" in texts[:1]:  # `srun bash -c "$(declare -f F); F"`
            self.exported.update(texts[1:])
        elif name == "let":
            for text in re.findall(r"[A-Za-z_]\w*", " ".join(texts)):
                self.values[text] = None
        for part in (part for word in command.words for part in word.expansions):
            if part.kind == "default" and ":=" in part.source:
                self.values[part.name] = None
        if name == "shift" and isinstance(given := self.values.get("@"), Array):
            count = int(texts[0]) if texts and texts[0].isdigit() else 1
            self.values = with_arguments(self.values, given.items[count:])
        if name in self.bodies and name not in self.called:
            alone = name not in self.exported and self.calls[name] == 1
            self.call(name, place, args=command.argv[1:] if alone else None)

    def _declare(self, node: Node, place: Place, words: list[Word]) -> None:
        """`export X=1 Y`, `readonly`, `local`, `declare`."""
        keyword = self.words.text(node.children[0])
        exported = keyword == "export" or (keyword in ("declare", "typeset") and " -x" in self.words.text(node))
        for child in node.named_children:
            if child.type == "variable_assignment":
                self.assign(child, place, exported=exported)
                words.append(self.words.assignment(child))
            else:
                word = self.words.word(child)
                words.append(word)
                if child.type == "variable_name" and keyword != "unset":
                    name = self.words.text(child)
                    self.assignments.append(
                        Assignment(
                            name, None, (), word.span, self.shell, exported, False, place.conditional, place.function
                        )
                    )

    def assign(self, node: Node, place: Place, exported: bool = False, temporary: bool = False) -> Assignment:
        """Add an assignment, and note the value."""
        target, value = node.child_by_field_name("name"), node.child_by_field_name("value")
        assert target is not None
        name = self.words.text(target)
        element = target.type == "subscript"
        name = name.partition("[")[0]
        append = any(child.type == "+=" for child in node.children)
        items: tuple[Word, ...] = ()
        word: Word | None = None
        names: frozenset[str] = frozenset()
        if value is not None and value.type == "array":
            written = [self.words.word(child) for child in value.named_children if child.type != "comment"]
            items = tuple(item for inner in written for item in expand(inner, self.values))
            names = frozenset(name for inner in written for name in inner.names)
        elif value is not None:
            raw = self.words.word(value)
            word, names = expand_whole(raw, self.values), raw.names
        else:
            word = Word((Literal("", self.words.span(node).end - 1, True),), self.words.span(node))
        made = Assignment(
            name,
            word,
            items,
            self.words.span(node),
            self.shell,
            exported or temporary,
            temporary,
            place.conditional,
            place.function,
            append,
            names,
        )
        self.assignments.append(made)
        if not temporary:
            new: Value = None if element else word if word is not None else Array(items)
            self.values[name] = add(self.values.get(name), new) if append else new
        return made

    def redirect(self, node: Node) -> Redirect:
        """Read a redirection."""
        operator = "".join(child.text.decode() for child in node.children if child.text and not nodes.is_target(child))
        target = next((child for child in node.children if nodes.is_target(child)), None)
        if node.type == "heredoc_redirect":
            return Redirect("<<", None)
        return Redirect(operator, self.words.word(target) if target is not None else None)

    # scripts in the script

    def inside(self, kind: str, command: Command, mapped: Mapped, place: Place, written: bool = False) -> None:
        """Add the script inside of a command; `written` if the command writes it to a file."""
        if self.depth >= _DEPTH or not mapped.text.strip():
            return
        launchers = () if written else command.programs
        starts = (*self.shell.starts, command.span.start)
        shell = Shell(kind, (*self.shell.launchers, *launchers), self.numbers.next(), starts)
        values = {} if kind == "remote" else {key: self.values[key] for key in self.values if not is_argument(key)}
        builder = type(self)(self.source, mapped, shell, values, self.numbers, self.depth + 1)
        builder.exported = self.exported
        builder.place = Place(blocks=place.blocks)
        self.nested.append(builder.script())
        if launchers and launchers[-1].name == "eval":
            for name in {item.name for item in self.nested[-1].assignments}:
                self.values[name] = None

    def read_heredocs(
        self, redirects: Sequence[Node], command: Command | None, place: Place, reads_stdin: str = ""
    ) -> None:
        """Read the heredocs of a command, and what the grammar puts into them."""
        for node in redirects:
            if node.type == "heredoc_redirect":
                self._heredoc(node, command, reads_stdin, place)
                for child in node.named_children:
                    if child.type in ("pipeline", "list", "command"):
                        piped = place._replace(piped_from=command.name if command else "")
                        self.visit(child, piped)
            elif node.type == "herestring_redirect" and reads_stdin and node.named_children:
                word = expand_whole(self.words.word(node.named_children[-1]), self.values)
                kind = self.shell.kind if reads_stdin == "local" else reads_stdin
                if command is not None:
                    self.inside(kind, command, assemble([word]), place)

    def _heredoc(self, node: Node, command: Command | None, reads_stdin: str, place: Place) -> None:
        body = next((child for child in node.named_children if child.type == "heredoc_body"), None)
        start = next((child for child in node.named_children if child.type == "heredoc_start"), None)
        if body is None or start is None or command is None:
            return
        quoted = any(mark in self.words.text(start) for mark in "'\"\\")
        word = self.words.heredoc(body, quoted)
        if not quoted:
            word = expand_whole(word, self.values)
        target = _file_written(command)
        self.heredocs.append(Heredoc(word, quoted, self.words.span(node), command, target))
        text = word.shown.lstrip()
        is_script = bool(re.match(r"#!\S*(/|\benv\s+)(ba|z|da|k)?sh\b", text)) or (target or "").endswith(
            (".sh", ".bash", *BATCH_NAMES)
        )
        mapped = assemble([word])
        if reads_stdin:
            self.inside(self.shell.kind if reads_stdin == "local" else reads_stdin, command, mapped, place)
        elif command.name in ("cat", "tee") and (is_script or DIRECTIVE.search(text)):
            self.inside("batch" if DIRECTIVE.search(text) else "file", command, mapped, place, written=True)

    def _substituted(self, node: Node, background: bool = False) -> tuple[Command, ...]:
        """Visit `$(…)` or `<(…)` and return its commands."""
        before, values = len(self.commands), dict(self.values)
        self.visit_all(node, Place(subshell=True, conditional=True))
        self.values = values
        made = tuple(self.commands[before:])
        del self.commands[before:]
        self.commands[before:before] = made
        return made

    def head(self, node: Node) -> str:
        """The name of the program that a statement starts with."""
        while node.type in ("redirected_statement", "negated_command", "pipeline", "list") and node.named_children:
            node = node.named_children[0]
        if node.type == "command":
            name = node.child_by_field_name("name")
            return program_name(self.words.bare(name)) if name is not None else ""
        return {"while_statement": "while", "for_statement": "for"}.get(node.type, "")

    @cached_property
    def calls(self) -> Counter[str]:
        """How often each program or function is called, in this shell and in `$(…)`."""
        found: Counter[str] = Counter()
        waiting = [self.root]
        while waiting:
            inner = waiting.pop()
            if inner.type == "command":
                found[self.head(inner)] += 1
            waiting += inner.named_children
        return found

    def set_in(self, node: Node) -> Iterator[str]:
        """The variables that are assigned anywhere in a node."""
        waiting = [node]
        while waiting:
            inner = waiting.pop()
            if inner.type == "variable_assignment":
                target = inner.child_by_field_name("name")
                if target is not None:
                    yield self.words.text(target).partition("[")[0]
            elif inner.type == "command" and self.head(inner) in _SETTERS:
                yield from (self.words.text(child) for child in inner.named_children[1:])
            waiting += inner.named_children


def _file_written(command: Command) -> str | None:
    for redirect in command.redirects:
        if redirect.target is not None and redirect.operator.lstrip("0123456789&") in (">", ">>", ">|"):
            return redirect.target.text if redirect.target.text is not None else redirect.target.shown
    if command.name == "tee":
        return next((word.text for word in command.argv[1:] if not word.start.startswith("-")), None)
    return None
