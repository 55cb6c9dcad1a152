"""docs/reference is up to date: `make docs` generates it by tools/reference.py."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))


def test_the_reference_is_up_to_date():
    import reference

    made = reference.pages()
    assert set(made) == {path.name for path in reference.FOLDER.glob("*.md")}, "make docs, and commit docs/reference"
    for name, text in made.items():
        assert text == (reference.FOLDER / name).read_text(), f"{name} is out of date: make docs, and commit it"


def test_the_rules_of_lint_are_up_to_date():
    import reference

    text = reference.LINT.read_text()
    assert reference.lint_rules(text) == text, "make docs, and commit docs/lint.md"
