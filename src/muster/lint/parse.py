"""`read_script`: a shell script as the model of `model.py`, by tree-sitter and its grammar of bash.

Statements are visited in the order in which the shell executes them, with what is known of variables: branches are
visited apart and merged, a function when it is called first, and `bash -c`, `eval`, `ssh` and heredocs are scripts in
the script. Two optional packages do the parsing, so that this module is imported on use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

from muster.lint import nodes
from muster.lint.directives import read_directives
from muster.lint.model import (
    Assignment,
    Command,
    Comment,
    Heredoc,
    Literal,
    Program,
    Redirect,
    Script,
    Shell,
    Source,
    Span,
    Word,
)
from muster.lint.programs import program_name, programs_of
from muster.lint.values import Array, Mapped, Value, Values, add, assemble, expand, expand_whole, merge
from muster.lint.words import Reader

_BATCH_NAMES = (".sbatch", ".slurm", ".slrm", ".sl", ".batch")
_DIRECTIVE = re.compile(r"^#SBATCH\s|^# +SBATCH +-", re.MULTILINE)
_SETTERS = frozenset({"read", "mapfile", "readarray", "getopts", "unset", "wait"})
_DEPTH = 6
"""Scripts in scripts are read down to this depth."""
_LOOPS = {
    "while_statement": "while",
    "for_statement": "for",
    "c_style_for_statement": "for",
    "until_statement": "until",
}


@lru_cache(maxsize=1)
def _parser() -> Parser:
    return Parser(Language(tree_sitter_bash.language()))


class _Place(NamedTuple):
    """Where a statement stands."""

    background: bool = False
    loop: str = ""
    loop_stdin: bool = False
    function: str = ""
    conditional: bool = False
    subshell: bool = False
    piped_from: str = ""
    piped_to: str = ""


def read_script(source: Source) -> Script:
    """Build the model of a shell script."""
    text = source.text
    parsed = re.sub(r"\\\r\n", " \\\\\n", text).replace("\r\n", " \n")
    builder = _Builder(source, Mapped(parsed, range(len(parsed))), Shell("script"), {}, _Numbers())
    comments = (builder.words.text(node) for node in builder.root.children if node.type == "comment")
    if source.path.endswith(_BATCH_NAMES) or any(_DIRECTIVE.match(comment) for comment in comments):
        builder.shell = builder.words.shell = Shell("batch")
    return builder.script()


class _Numbers:
    """Numbers of shells."""

    def __init__(self) -> None:
        self.last = 0

    def next(self) -> int:
        self.last += 1
        return self.last


class _Builder:
    """Builds the model of one shell, and with further builders those of the scripts inside it."""

    def __init__(
        self, source: Source, mapped: Mapped, shell: Shell, values: Values, numbers: _Numbers, depth: int = 0
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
        self.place = _Place()
        # one byte for each character, so that offsets in bytes are offsets in the text
        self._tree = _parser().parse(re.sub(r"[^\x00-\x7f]", "x", mapped.text).encode())
        self.root = self._tree.root_node

    def script(self) -> Script:
        """Visit everything and return the model."""
        first = next((node for node in self.root.children if node.type != "comment"), None)
        self._visit_all(self.root, self.place)
        for name in [name for name in self.bodies if name not in self.called]:
            self._call(name, self.place, apart=True)
        begin = first.start_byte if first is not None else len(self.mapped.text)
        shebang = self.mapped.text.partition("\n")[0].rstrip() if self.mapped.text.startswith("#!") else ""
        return Script(
            self.source,
            self.shell,
            shebang,
            read_directives(self.mapped, begin, [node for node in self.root.children if node.type == "comment"]),
            tuple(self.commands),
            tuple(self.assignments),
            tuple(self.comments),
            tuple(self.heredocs),
            tuple(self.bodies),
            tuple(self.nested),
            tuple(self.errors),
        )

    # statements

    def _visit_all(self, node: Node, place: _Place) -> None:
        """Visit the statements in a node; a `&` behind one makes it a background job."""
        children = node.children
        for number, child in enumerate(children):
            if child.is_named:
                after = children[number + 1] if number + 1 < len(children) else None
                background = place.background or (after is not None and after.type == "&")
                self._visit(child, place._replace(background=background))

    def _visit(self, node: Node, place: _Place) -> None:
        method = getattr(self, f"_on_{node.type}", None)
        if method is not None:
            method(node, place)
        elif node.type == "ERROR":
            self.errors.append(self.words.span(node))
            self._visit_all(node, place)
        elif node.type in _LOOPS:
            self._loop(node, place)
        elif node.named_children and node.type not in ("word", "string", "concatenation", "regex"):
            self._visit_all(node, place)

    def _on_comment(self, node: Node, place: _Place) -> None:
        self.comments.append(Comment(self.words.text(node), self.words.span(node)))

    def _on_list(self, node: Node, place: _Place) -> None:
        left, *others = [child for child in node.children if child.is_named]
        self._visit(left, place)
        for child in others:
            before = dict(self.values)
            self._visit(child, place._replace(conditional=True))
            self.values = merge([before, self.values])

    def _on_pipeline(self, node: Node, place: _Place) -> None:
        children = [child for child in node.children if child.is_named]
        heads = [self._head(child) for child in children]
        for number, child in enumerate(children):
            inner = place._replace(
                piped_from=heads[number - 1] if number else place.piped_from,
                piped_to=heads[number + 1] if number + 1 < len(children) else place.piped_to,
            )
            before = dict(self.values)
            self._visit(child, inner)
            self.values = before  # each part of a pipeline is a subshell

    def _on_subshell(self, node: Node, place: _Place) -> None:
        before = dict(self.values)
        self._visit_all(node, place._replace(subshell=True))
        self.values = before

    def _on_if_statement(self, node: Node, place: _Place) -> None:
        inner = place._replace(conditional=True)
        branches: list[Values] = []
        has_else = False
        start: Values | None = None
        for child in node.named_children:
            if child.type in ("elif_clause", "else_clause"):
                has_else = has_else or child.type == "else_clause"
                branches.append(self.values)
                self.values = dict(start if start is not None else self.values)
                self._visit_all(child, inner)
            elif nodes.follows(child, "if"):
                self._visit(child, place)
                start = dict(self.values)
            else:
                start = start if start is not None else dict(self.values)
                self._visit(child, inner)
        branches.append(self.values)
        if not has_else:
            branches.append(start if start is not None else self.values)
        self.values = merge(branches)

    def _on_case_statement(self, node: Node, place: _Place) -> None:
        start = dict(self.values)
        branches = [start]
        for child in node.named_children:
            if child.type == "case_item":
                self.values = dict(start)
                self._visit_all(child, place._replace(conditional=True))
                branches.append(self.values)
        self.values = merge(branches)

    def _loop(self, node: Node, place: _Place) -> None:
        for name in self._set_in(node):
            self.values[name] = None
        kind = _LOOPS[node.type]
        if node.children and node.children[0].type == "until":
            kind = "until"
        stdin = kind == "while" and any(
            self._head(child) == "read" and not re.search(r"\s-[a-z]*u|<&", self.words.text(child))
            for child in node.named_children
        )
        variable = node.child_by_field_name("variable")
        if variable is not None:
            self.values[self.words.text(variable)] = None
        inner = place._replace(loop=kind, loop_stdin=stdin or (place.loop_stdin and kind != "while"), conditional=True)
        before = dict(self.values)
        for child in node.named_children:
            if child.type == "do_group":
                self._visit_all(child, inner)
            elif kind != "for":
                self._visit(child, place._replace(background=False))
            elif child != variable:
                self.words.word(child)
        self.values = merge([before, self.values])

    def _on_function_definition(self, node: Node, place: _Place) -> None:
        name, body = node.child_by_field_name("name"), node.child_by_field_name("body")
        if name is not None and body is not None:
            self.bodies[self.words.text(name)] = body

    def _call(self, name: str, place: _Place, apart: bool = False) -> None:
        self.called.add(name)
        before = dict(self.values)
        shell = self.shell
        if name in self.exported:  # it runs where `srun bash -c NAME` is
            self.shell = self.words.shell = Shell("file", shell.launchers, self.numbers.next())
        self._visit(self.bodies[name], place._replace(function=name, conditional=place.conditional or apart))
        self.shell = self.words.shell = shell
        if apart:
            self.values = before

    def _on_redirected_statement(self, node: Node, place: _Place) -> None:
        body = node.child_by_field_name("body")
        others = [child for child in node.named_children if child != body]
        if body is not None and body.type in ("command", "declaration_command", "test_command"):
            self._command(body, place, others)
        else:
            if body is None:
                self._command(None, place, others, node)
            else:
                self._visit(body, place)
                self._heredocs(others, None, place)

    def _on_command(self, node: Node, place: _Place) -> None:
        self._command(node, place, ())

    _on_test_command = _on_declaration_command = _on_unset_command = _on_command

    def _on_compound_statement(self, node: Node, place: _Place) -> None:
        if node.children and node.children[0].type == "((":
            for name in re.findall(r"[A-Za-z_]\w*", self.words.text(node)):
                self.values[name] = None
        else:
            self._visit_all(node, place)

    def _on_variable_assignment(self, node: Node, place: _Place) -> None:
        self._assign(node, place)

    # commands

    def _command(self, node: Node | None, place: _Place, redirects: Sequence[Node], around: Node | None = None) -> None:
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
                    temporary.append(self._assign(child, place, temporary=True))
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
            tuple(self._redirect(child) for child in nodes.redirects(redirects)),
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
        )
        self.commands.append(command)
        self._effects(command, place)
        if split.inner is not None:
            kind = self.shell.kind if split.inner.kind == "local" else split.inner.kind
            self._inside(kind, split.programs, assemble(split.inner.words))
        self._heredocs(redirects, command, place, split.reads_stdin)

    def _effects(self, command: Command, place: _Place) -> None:
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
        if name in self.bodies and name not in self.called:
            self._call(name, place)

    def _declare(self, node: Node, place: _Place, words: list[Word]) -> None:
        """`export X=1 Y`, `readonly`, `local`, `declare`."""
        keyword = self.words.text(node.children[0])
        exported = keyword == "export" or (keyword in ("declare", "typeset") and " -x" in self.words.text(node))
        for child in node.named_children:
            if child.type == "variable_assignment":
                self._assign(child, place, exported=exported)
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

    def _assign(self, node: Node, place: _Place, exported: bool = False, temporary: bool = False) -> Assignment:
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

    def _redirect(self, node: Node) -> Redirect:
        operator = "".join(child.text.decode() for child in node.children if child.text and not nodes.is_target(child))
        target = next((child for child in node.children if nodes.is_target(child)), None)
        if node.type == "heredoc_redirect":
            return Redirect("<<", None)
        return Redirect(operator, self.words.word(target) if target is not None else None)

    # scripts in the script

    def _inside(self, kind: str, launchers: Sequence[Program], mapped: Mapped) -> None:
        if self.depth >= _DEPTH or not mapped.text.strip():
            return
        shell = Shell(kind, (*self.shell.launchers, *launchers), self.numbers.next())
        values = {} if kind == "remote" else dict(self.values)
        builder = _Builder(self.source, mapped, shell, values, self.numbers, self.depth + 1)
        builder.exported = self.exported
        self.nested.append(builder.script())
        if launchers and launchers[-1].name == "eval":
            for name in {item.name for item in self.nested[-1].assignments}:
                self.values[name] = None

    def _heredocs(
        self, redirects: Sequence[Node], command: Command | None, place: _Place, reads_stdin: str = ""
    ) -> None:
        for node in redirects:
            if node.type == "heredoc_redirect":
                self._heredoc(node, command, reads_stdin)
                for child in node.named_children:
                    if child.type in ("pipeline", "list", "command"):
                        piped = place._replace(piped_from=command.name if command else "")
                        self._visit(child, piped)
            elif node.type == "herestring_redirect" and reads_stdin and node.named_children:
                word = expand_whole(self.words.word(node.named_children[-1]), self.values)
                kind = self.shell.kind if reads_stdin == "local" else reads_stdin
                self._inside(kind, command.programs if command else (), assemble([word]))

    def _heredoc(self, node: Node, command: Command | None, reads_stdin: str) -> None:
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
            (".sh", ".bash", *_BATCH_NAMES)
        )
        mapped = assemble([word])
        if reads_stdin:
            self._inside(self.shell.kind if reads_stdin == "local" else reads_stdin, command.programs, mapped)
        elif command.name in ("cat", "tee") and (is_script or _DIRECTIVE.search(text)):
            self._inside("batch" if _DIRECTIVE.search(text) else "file", (), mapped)

    def _substituted(self, node: Node, background: bool = False) -> tuple[Command, ...]:
        """Visit `$(…)` or `<(…)` and return its commands."""
        before, values = len(self.commands), dict(self.values)
        self._visit_all(node, _Place(subshell=True, conditional=True))
        self.values = values
        made = tuple(self.commands[before:])
        del self.commands[before:]
        self.commands[before:before] = made
        return made

    def _head(self, node: Node) -> str:
        """The name of the program that a statement starts with."""
        while node.type in ("redirected_statement", "negated_command", "pipeline", "list") and node.named_children:
            node = node.named_children[0]
        if node.type == "command":
            name = node.child_by_field_name("name")
            return program_name(self.words.bare(name)) if name is not None else ""
        return {"while_statement": "while", "for_statement": "for"}.get(node.type, "")

    def _set_in(self, node: Node) -> Iterator[str]:
        """The variables that are assigned anywhere in a node."""
        waiting = [node]
        while waiting:
            inner = waiting.pop()
            if inner.type == "variable_assignment":
                target = inner.child_by_field_name("name")
                if target is not None:
                    yield self.words.text(target).partition("[")[0]
            elif inner.type == "command" and self._head(inner) in _SETTERS:
                yield from (self.words.text(child) for child in inner.named_children[1:])
            waiting += inner.named_children


def _file_written(command: Command) -> str | None:
    for redirect in command.redirects:
        if redirect.target is not None and redirect.operator.lstrip("0123456789&") in (">", ">>", ">|"):
            return redirect.target.text if redirect.target.text is not None else redirect.target.shown
    if command.name == "tee":
        return next((word.text for word in command.argv[1:] if not word.start.startswith("-")), None)
    return None
