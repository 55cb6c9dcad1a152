"""`read_script`: a shell script as the model of `model.py`, by tree-sitter and its grammar of bash.

Statements are visited in the order in which the shell executes them, with what is known of variables: branches are
visited apart and merged, a function when it is called first, and `bash -c`, `eval`, `ssh` and heredocs are scripts in
the script. Two optional packages do the parsing, so that this module is imported on use.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tree_sitter import Node

from muster.lint import nodes
from muster.lint.commands import BATCH_NAMES, DIRECTIVE, CommandReader, Numbers, Place
from muster.lint.directives import read_directives
from muster.lint.model import Block, Comment, Script, Shell, Source, Word
from muster.lint.values import Mapped, Values, expand, is_argument, merge, with_arguments

_LOOPS = {"while_statement": "while", "for_statement": "for", "c_style_for_statement": "for"}


def read_script(source: Source) -> Script:
    """Build the model of a shell script."""
    text = source.text
    parsed = re.sub(r"\\\r\n", " \\\\\n", text).replace("\r\n", " \n")
    if re.search(r"\\\s*\Z", parsed):  # the shell ignores it; the grammar does not know it
        at = parsed.rindex("\\")
        parsed = f"{parsed[:at]} {parsed[at + 1 :]}"
    builder = _Builder(source, Mapped(parsed, range(len(parsed))), Shell("script"), {}, Numbers())
    comments = (builder.words.text(node) for node in builder.root.children if node.type == "comment")
    if source.path.endswith(BATCH_NAMES) or any(DIRECTIVE.match(comment) for comment in comments):
        builder.shell = builder.words.shell = Shell("batch")
    return builder.script()


class _Builder(CommandReader):
    """Builds the model of one shell, and with further builders those of the scripts inside it."""

    def script(self) -> Script:
        """Visit everything and return the model."""
        first = next((node for node in self.root.children if node.type != "comment"), None)
        self.visit_all(self.root, self.place)
        for name in [name for name in self.bodies if name not in self.called]:
            self.call(name, self.place, apart=True)
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

    def visit_all(self, node: Node, place: Place) -> None:
        """Visit the statements in a node; a `&` behind one makes it a background job."""
        children = node.children
        for number, child in enumerate(children):
            if child.is_named:
                after = children[number + 1] if number + 1 < len(children) else None
                background = place.background or (after is not None and after.type == "&")
                self.visit(child, place._replace(background=background))

    def visit(self, node: Node, place: Place) -> None:
        method = getattr(self, f"_on_{node.type}", None)
        if method is not None:
            method(node, place)
        elif node.type == "ERROR":
            self.errors.append(self.words.span(node))
            self.visit_all(node, place)
        elif node.type in _LOOPS:
            self._loop(node, place)
        elif node.named_children and node.type not in ("word", "string", "concatenation", "regex"):
            self.visit_all(node, place)

    def _on_comment(self, node: Node, place: Place) -> None:
        self.comments.append(Comment(self.words.text(node), self.words.span(node)))

    def _on_list(self, node: Node, place: Place) -> None:
        left, *others = [child for child in node.children if child.is_named]
        self.visit(left, place)
        for child in others:
            before = dict(self.values)
            inner = self._within(place, "test", node) if self._is_test(left) else place
            self.visit(child, inner._replace(conditional=True))
            self.values = merge([before, self.values])

    def _within(self, place: Place, kind: str, node: Node) -> Place:
        """Return the place of commands in an `if`, a `case`, or behind a test."""
        return place._replace(blocks=(*place.blocks, Block(kind, self.words.span(node))))

    def _is_test(self, node: Node) -> bool:
        """Return whether a list decides with this whether it goes on: `[ -f x ] && …`, but not `cd x && …`."""
        return node.type == "test_command" or self.head(node) in ("test", "grep", "command", "which")

    def _on_pipeline(self, node: Node, place: Place) -> None:
        children = [child for child in node.children if child.is_named]
        heads = [self.head(child) for child in children]
        for number, child in enumerate(children):
            inner = place._replace(
                piped_from=heads[number - 1] if number else place.piped_from,
                piped_to=heads[number + 1] if number + 1 < len(children) else place.piped_to,
            )
            before = dict(self.values)
            self.visit(child, inner)
            self.values = before  # each part of a pipeline is a subshell

    def _on_subshell(self, node: Node, place: Place) -> None:
        before = dict(self.values)
        self.visit_all(node, place._replace(subshell=True))
        self.values = before

    def _on_if_statement(self, node: Node, place: Place) -> None:
        inner = self._within(place, "if", node)._replace(conditional=True)
        branches: list[Values] = []
        has_else = False
        start: Values | None = None
        for child in node.named_children:
            if child.type in ("elif_clause", "else_clause"):
                has_else = has_else or child.type == "else_clause"
                branches.append(self.values)
                self.values = dict(start if start is not None else self.values)
                self.visit_all(child, inner)
            elif nodes.follows(child, "if"):
                self.visit(child, place)
                start = dict(self.values)
            else:
                start = start if start is not None else dict(self.values)
                self.visit(child, inner)
        branches.append(self.values)
        if not has_else:
            branches.append(start if start is not None else self.values)
        self.values = merge(branches)

    def _on_case_statement(self, node: Node, place: Place) -> None:
        start = dict(self.values)
        branches = [start]
        inner = self._within(place, "case", node)._replace(conditional=True)
        for child in node.named_children:
            if child.type == "case_item":
                self.values = dict(start)
                self.visit_all(child, inner)
                branches.append(self.values)
        self.values = merge(branches)

    def _loop(self, node: Node, place: Place) -> None:
        for name in self.set_in(node):
            self.values[name] = None
        kind = _LOOPS[node.type]
        if node.children and node.children[0].type == "until":
            kind = "until"
        stdin = kind == "while" and any(
            self.head(child) == "read" and not re.search(r"\s-[a-z]*u|<&", self.words.text(child))
            for child in node.named_children
        )
        variable = node.child_by_field_name("variable")
        if variable is not None:
            self.values[self.words.text(variable)] = None
        block = self._loop_block(node, kind)
        inner = place._replace(
            loop=kind,
            loop_stdin=stdin or (place.loop_stdin and kind != "while"),
            conditional=True,
            blocks=(*place.blocks, block),
        )
        before = dict(self.values)
        for child in node.named_children:
            if child.type == "do_group":
                self.visit_all(child, inner)
            elif kind != "for":
                self.visit(child, place._replace(background=False, blocks=inner.blocks))
            elif child != variable:
                self.words.word(child)
        self.values = merge([before, self.values])

    def _loop_block(self, node: Node, kind: str) -> Block:
        variable = node.child_by_field_name("variable")
        name = self.words.text(variable) if variable is not None else ""
        names = {*self.set_in(node), *([name] if name else [])}
        items: tuple[Word, ...] = ()
        if node.type == "for_statement":
            written = [child for child in node.named_children if child.type not in ("do_group", "comment")]
            items = tuple(
                item for child in written if child != variable for item in expand(self.words.word(child), self.values)
            )
        return Block(kind, self.words.span(node), name, items, frozenset(names))

    def _on_function_definition(self, node: Node, place: Place) -> None:
        name, body = node.child_by_field_name("name"), node.child_by_field_name("body")
        if name is not None and body is not None:
            self.bodies[self.words.text(name)] = body

    def call(self, name: str, place: Place, apart: bool = False, args: Sequence[Word] | None = None) -> None:
        self.called.add(name)
        before = dict(self.values)
        if args is not None:
            self.values = with_arguments(self.values, args)
        shell = self.shell
        if name in self.exported:  # it runs where `srun bash -c NAME` is
            self.shell = self.words.shell = Shell("file", shell.launchers, self.numbers.next(), shell.starts)
        self.visit(self.bodies[name], place._replace(function=name, conditional=place.conditional or apart))
        self.shell = self.words.shell = shell
        if apart:
            self.values = before
        else:
            own = {key: value for key, value in before.items() if is_argument(key)}
            self.values = {**{key: value for key, value in self.values.items() if not is_argument(key)}, **own}

    def _on_redirected_statement(self, node: Node, place: Place) -> None:
        body = node.child_by_field_name("body")
        others = [child for child in node.named_children if child != body]
        if body is not None and body.type in ("command", "declaration_command", "test_command"):
            self.command(body, place, others)
        else:
            if body is None:
                self.command(None, place, others, node)
            else:
                before = len(self.commands)
                self.visit(body, place)
                found = tuple(self.redirect(child) for child in nodes.redirects(others))
                if body.type == "list" and len(self.commands) > before:  # `cd x && python t.py > log`: of the last one
                    last = self.commands[-1]
                    self.commands[-1] = last._replace(redirects=(*last.redirects, *found))
                self.read_heredocs(others, None, place)

    def _on_command(self, node: Node, place: Place) -> None:
        self.command(node, place, ())

    _on_test_command = _on_declaration_command = _on_unset_command = _on_command

    def _on_compound_statement(self, node: Node, place: Place) -> None:
        if node.children and node.children[0].type == "((":
            for name in re.findall(r"[A-Za-z_]\w*", self.words.text(node)):
                self.values[name] = None
        else:
            self.visit_all(node, place)

    def _on_variable_assignment(self, node: Node, place: Place) -> None:
        self.assign(node, place)
