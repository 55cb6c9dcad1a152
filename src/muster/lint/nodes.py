"""Questions about nodes of the syntax tree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tree_sitter import Node


def follows(node: Node, keyword: str) -> bool:
    """The node stands between `if` and `then`."""
    before = node.prev_sibling
    while (before is not None and before.type in (";", "\n", "comment")) or (before is not None and before.is_named):
        before = before.prev_sibling
    return before is not None and before.type == keyword


def operands(node: Node) -> Iterator[Node]:
    """The words of `[ … ]` and `[[ … ]]`."""
    for child in node.named_children:
        if child.type in ("binary_expression", "unary_expression", "negated_command", "parenthesized_expression"):
            yield from operands(child)
        elif child.type != "test_operator":
            yield child


def redirects(nodes: Sequence[Node]) -> Iterator[Node]:
    """The redirections, also those that the grammar puts into a heredoc."""
    for node in nodes:
        if "redirect" in node.type:
            yield node
            yield from (child for child in node.named_children if "redirect" in child.type)


def stray_words(nodes: Sequence[Node]) -> Iterator[Node]:
    """Words behind a redirection: `cat <<EOF file`, which the grammar puts into the heredoc."""
    for node in nodes:
        if node.type == "heredoc_redirect":
            for child in node.named_children:
                if child.type in ("word", "string", "concatenation", "simple_expansion", "raw_string", "expansion"):
                    yield child


def is_target(node: Node) -> bool:
    """It is what a redirection reads or writes."""
    return node.is_named and node.type != "file_descriptor"
