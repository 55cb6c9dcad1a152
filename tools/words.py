"""Words and phrases that are not the field's: they may not come back in messages, help, docs or README.

As a program (`make check`) it prints each place where one is, with the word to use, and exits with 1 if there are any.
What is read: the string literals of src/muster but docstrings, docs/**/*.md, README.md, CONTRIBUTING.md, SECURITY.md,
SKILL.md. `ALLOWED` holds the justified exceptions, each with its reason.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent

WORDS: dict[str, str] = {
    # reports
    r"ended? well|ends well": "succeeded",
    r"for want of": "lost peer; likely out of memory",
    r"left behind": "orphaned process",
    r"^its log: |the logs: muster": "log: / logs:",
    r"had failed:": "failed before that:",
    r"looked after|looks after": "controller on HOST",
    r"are nowhere": "has no running ranks",
    r"ended by muster|ended by the launcher": "terminated by …",
    # checks
    r"what to do:": "fix:",
    r"why it matters:": "impact:",
    r"all hold\b|does not hold|do not hold": "checks passed / failed",
    r"all is well": "checks passed",
    r"WRONG": "FAIL",
    r"who is where": "placement of ranks",
    r"variables that hurt": "conflicting environment variables",
    # Slurm
    r"hands? in\b|handed in\b": "submit",
    r"ma[dk]es? room for another|had to make room": "preempted",
    r"put back into the queue": "requeue",
    r"come again after|comes again after": "requeue",
    r"\bof Slurm: ": "a help group",
    r"the words of ssh": "ssh command",
    # errors
    r"` wants (a|an|some|the) ": "requires",
    r"is no (name|set|table|number|rank|pair|stream|scheduler|IPv6|size|end|id)\b": "invalid …, not a …",
    r"there is no (option|command|launcher|scheduler|profile|fault|script|program|folder|such program|torch)\b": (
        "unknown …, … not found, … is not installed"
    ),
    r"takes no operand|it was given\b|and was given\b": "takes no arguments, got: …",
    r"changes nothing: ": "has no effect: ",
    r"contradict each other": "cannot be combined with",
    r"leave (it|them) out of": "leave out …",
    r"fits \d+ runs|` fits \{": "is ambiguous: matches N runs",
    r"is not understood|was not understood": "invalid …",
    r"it said nothing|said nothing\b": "no error message",
    r"cannot be (asked|had)\b": "not available",
    r"(does|do) not answer: \{": "no answer from …: …",
    r"in want of": "lost peer",
    # help
    r"\bso many of them|the first so many|at most so many": "only the first N; up to N times",
    r"so long before": "this long before",
    r"so much time": "within the last DURATION",
    r"show this and leave": "show this help",
    r"\bwithout it\b(?=[.,;)]|$)": "(default: …)",
    r"one a (GPU|rank|core|node)\b": "one per …",
    r"warmed interpreter|warm interpreter": "fork server, preloaded interpreter",
    r"to their end\b": "until they finish",
    r"all that is known of": "show details of",
    r"a look at the Python": "interpreter probe",
    r"gets ready to fork": "preparing to fork",
    # docs
    r"asks nobody for anything": "self-contained",
    r"\breckon(ed|s)?\b": "computed",
    r"go along by themselves": "are forwarded automatically",
    r"told in words": "reported",
    r"stands in no file": "(no roadmap here)",
    r"In one breath": "Overview",
    r"what a rank finds": "environment of a rank",
    r"where the ranks meet|where they must meet": "rendezvous address",
    r"\bkeeper\b": "store process, daemon",
    r"\bforsaken\b|\bbury\b|\bswept\b": "detached, cleanup",
}
"""Pattern: the field's word."""

ALLOWED: tuple[tuple[str, str, str], ...] = (
    ("src/muster/core/events.py", "swe", "the names of events and actions in events.jsonl"),
    ("src/muster/protocol/", "swe", "kinds of messages of earlier versions of the protocol"),
    ("src/muster/lab/", "keeper", "the key in lab.json, which a lab that is up already has"),
    ("docs/reference/protocol.md", "", "generated from the catalogue of messages"),
    ("src/muster/protocol/messages.py", "without it", "part of a sentence about versions"),
    ("docs/glossary.md", "", "lists what terms mean in plain words"),
    ("docs/design.md", "", "a page for developers; its own rewriting is not finished"),
)
"""(path, text of the match, reason): the path is a file or the beginning of paths; an empty text stands for all."""


class Place(NamedTuple):
    """Where a word stands."""

    path: str
    line: int
    found: str
    instead: str


def literals(source: str) -> Iterator[tuple[int, str]]:
    """The string literals of a module with their lines, but docstrings; the values of an f-string stand as `{…}`."""
    tree = ast.parse(source)
    docs = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "{…}" for part in node.values)
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | inner:
            yield node.lineno, node.value


def texts() -> Iterator[tuple[str, int, str]]:
    """(path, line, text) of all that a person reads."""
    for path in sorted((ROOT / "src" / "muster").rglob("*.py")):
        for line, text in literals(path.read_text(encoding="utf-8")):
            yield str(path.relative_to(ROOT)), line, text
    pages = [*sorted((ROOT / "docs").rglob("*.md")), *(ROOT / f"{name}.md" for name in ("README", "SECURITY", "SKILL"))]
    for path in pages:
        if path.exists():
            for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                yield str(path.relative_to(ROOT)), number, text


def allowed(path: str, found: str) -> bool:
    """It is one of the exceptions."""
    return any(path.startswith(where) and text in found for where, text, _ in ALLOWED)


def places() -> list[Place]:
    """Where words stand that are not the field's."""
    patterns = [(re.compile(pattern), instead) for pattern, instead in WORDS.items()]
    return [
        Place(path, line, match[0], instead)
        for path, line, text in texts()
        for pattern, instead in patterns
        for match in pattern.finditer(text)
        if not allowed(path, match[0])
    ]


def main() -> int:
    """The program."""
    found = places()
    for place in found:
        print(f"{place.path}:{place.line}: {place.found!r}: write {place.instead!r}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
