"""What a rule is: one function, one row, and its documentation in the row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from muster.lint.model import Span

ERROR, WARNING, NOTE = "error", "warning", "note"
"""It does not do what it says · it fails sometimes, or elsewhere · it costs time or readability."""

SCRIPT, PYTHON, CONFIG, HOSTFILE = "script", "python", "config", "hostfile"
"""The kinds of files."""


class Edit(NamedTuple):
    """A change of a file: the text that replaces a span."""

    span: Span
    text: str


class Finding(NamedTuple):
    """One thing that is wrong."""

    span: Span
    message: str
    """What is wrong here, with the value."""
    edits: tuple[Edit, ...] = ()
    """The changes that `--fix` makes; empty if a person has to decide."""
    rule: str = ""
    """Name of the rule; the engine sets it."""


class Rule(NamedTuple):
    """A rule."""

    name: str
    level: str
    kind: str
    """The kind of files that it reads."""
    check: Callable[[Any], Iterator[Finding]]
    """Takes a `Scene` for scripts, a `PythonFile`, a `Config` or a `Hosts`."""
    says: str
    """What it finds: a phrase for the list of rules."""
    why: str
    """What happens then: one or two sentences."""
    fix: str
    """What to write instead: an imperative."""
    bad: str
    """An example with the finding."""
    good: str
    """The same without it; no rule finds anything there."""
    fixed: bool = False
    """True if `--fix` corrects it, where that is safe."""
