"""Parses Python without its warnings: `"\\d"` in a script is no message of muster."""

from __future__ import annotations

import ast
import warnings


def parsed(source: str) -> ast.Module:
    """Return the tree of a program. Raises `SyntaxError`, and `ValueError` for null bytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)
