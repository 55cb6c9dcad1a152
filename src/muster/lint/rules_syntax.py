"""Rules about files that their interpreter cannot parse."""

from __future__ import annotations

import re
from collections.abc import Iterator

from muster.lint.bash import said_by_bash
from muster.lint.model import Source, Span
from muster.lint.rule import ERROR, PYTHON, SCRIPT, Finding, Rule
from muster.lint.rules_python import PythonFile
from muster.lint.scene import Scene

_OF_BASH = re.compile(r"#!.*\b(ba|da)?sh\b")


def syntax_error(scene: Scene) -> Iterator[Finding]:
    """What `bash -n` says, which parses and executes nothing."""
    source = scene.script.source
    shebang = scene.script.shebang
    other = source.path.endswith(".zsh") if not shebang else _OF_BASH.match(shebang) is None
    message = None if other else said_by_bash(source.text.replace("\r\n", "\n"))
    if message is not None:
        line, text = message
        yield Finding(_span_of(source, line), f"bash cannot parse it: {text}")


def python_syntax_error(file: PythonFile) -> Iterator[Finding]:
    """What the parser of Python says."""
    if file.error is not None:
        line, text = file.error
        yield Finding(_span_of(file.source, line), f"Python cannot parse it: {text}")


def _span_of(source: Source, line: int) -> Span:
    """Return where a line is; the last one for a line that does not exist, as the end of the file."""
    number = min(max(line, 1), max(source.lines, 1))
    start = source.start_of(number)
    return Span(start, start + max(len(source.line(number)), 1))


RULES = (
    Rule(
        "syntax-error",
        ERROR,
        SCRIPT,
        syntax_error,
        "a script that bash cannot parse",
        "The shell stops there: what comes before it has run, what comes after it never runs.",
        "Correct the line; an error at the end of the file is often a quote, `if` or `do` that was not closed.",
        "#!/bin/bash\nfor host in n1 n2; do\n  ssh -n $host hostname\n",
        "#!/bin/bash\nfor host in n1 n2; do\n  ssh -n $host hostname\ndone\n",
    ),
    Rule(
        "python-syntax-error",
        ERROR,
        PYTHON,
        python_syntax_error,
        "a Python file that Python cannot parse",
        "Each rank fails with SyntaxError when it starts. It may be of a newer Python than the one that runs muster.",
        "Correct the line.",
        "def train(:\n    pass\n",
        "def train():\n    pass\n",
    ),
)
