"""All that is shipped is Python 3.9: it runs inside jobs, by the Python of the ranks."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "muster"
VERMIN = Path(sys.executable).parent / "vermin"
FILES = sorted(SRC.rglob("*.py"))

TOO_NEW = [
    "match x:\n    case 1: pass",
    "try: pass\nexcept* ValueError: pass",
    "type X = int",
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_the_syntax_is_that_of_3_9(path: Path) -> None:
    """And annotations are not evaluated, so they may be written as today."""
    text = path.read_text()
    tree = ast.parse(text, str(path), feature_version=(3, 9))
    annotated = any(isinstance(node, (ast.AnnAssign, ast.arg)) and node.annotation for node in ast.walk(tree))
    assert "from __future__ import annotations" in text or not annotated


@pytest.mark.parametrize("text", TOO_NEW)
def test_newer_syntax_would_be_seen(text: str) -> None:
    with pytest.raises(SyntaxError):
        ast.parse(text, feature_version=(3, 9))


@pytest.mark.skipif(not VERMIN.exists(), reason="vermin is not installed")
def test_the_library_is_that_of_3_9() -> None:
    """vermin knows which function and which argument came with which Python.

    tomllib (3.11) has a stand-in for older ones.
    """
    words = ["--quiet", "--no-tips", "--target=3.9-", "--violations", "--exclude", "tomllib", str(SRC)]
    found = subprocess.run([sys.executable, str(VERMIN), *words], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
