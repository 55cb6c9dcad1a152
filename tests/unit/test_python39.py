"""All shipped code is Python 3.9: it runs inside jobs, with the Python of the ranks.

This checks the syntax; for the library `make check` runs vermin, which knows since when each function and argument
exists.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "muster"
FILES = sorted(SRC.rglob("*.py"))

TOO_NEW = [
    "match x:\n    case 1: pass",
    "try: pass\nexcept* ValueError: pass",
    "type X = int",
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_the_syntax_is_that_of_3_9(path: Path) -> None:
    """Annotations are not evaluated, so they may use current syntax."""
    text = path.read_text()
    tree = ast.parse(text, str(path), feature_version=(3, 9))
    annotated = any(isinstance(node, (ast.AnnAssign, ast.arg)) and node.annotation for node in ast.walk(tree))
    assert "from __future__ import annotations" in text or not annotated


@pytest.mark.parametrize("text", TOO_NEW)
def test_newer_syntax_would_be_seen(text: str) -> None:
    with pytest.raises(SyntaxError):
        ast.parse(text, feature_version=(3, 9))
